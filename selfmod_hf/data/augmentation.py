"""Random affine maps of training images, one map per image, as one batched resampling on the device.

A library does not fit. torchvision's v2 transforms draw once per call, so that all images of a batch move alike, and
a call per image is per-sample Python. kornia draws per image, but from torch's global generator, so that the draw of
an image depends on its place in the batch. Here a draw is a function of the seed, the epoch and the image's number
only. It is the same for any number of processes and micro-batches, and for a member of a population.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError


@dataclass(frozen=True)
class RandomAffine:
    """Rotate and shift images about their centre, then mirror some of them.

    The draws are those of torchvision's `RandomAffine` (nearest pixel, black border) and `RandomHorizontalFlip`.

    Attributes:
        degrees: the angle is uniform in [-degrees, degrees].
        translate: the shift along each axis is uniform up to this share of the side, in integer pixels.
        flip: probability of a mirror image.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> RandomAffine(degrees=10).draw(num_images=3, height=8, width=8, seed=0, epoch=1).shape
        torch.Size([3, 2, 3])
    """

    degrees: float = 15.0
    translate: float = 0.1
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name, most in (("degrees", 180), ("translate", 1), ("flip", 1)):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 <= value <= most:
                raise InputError(name, value, f"allowed are numbers from 0 to {most}")

    def draw(self, num_images: int, height: int, width: int, seed: int, epoch: int) -> Tensor:
        """Return the maps of one epoch, (N, 2, 3), from output to input coordinates, as `affine_grid` takes them."""
        generator = mixed_generator(seed, epoch, 0xAFF1)
        uniform = torch.rand(num_images, 4, generator=generator)
        symmetric = 2 * uniform - 1
        largest_shift = torch.tensor([width, height]) * self.translate
        shift = symmetric[:, 1:3] * largest_shift
        mirrored = uniform[:, 3] < self.flip
        angle = symmetric[:, 0] * self.degrees
        return affine_maps(angle, shift.round(), mirrored, height, width)


def mixed_generator(*numbers: int) -> torch.Generator:
    """Return a generator seeded by all these numbers, such as a seed and an epoch."""
    sequence = np.random.SeedSequence(numbers)
    mixed = sequence.generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def affine_maps(angle: Tensor, shift: Tensor, mirrored: Tensor, height: int, width: int) -> Tensor:
    """Return maps (N, 2, 3) that rotate by `angle`, shift by `shift`, then mirror.

    Args:
        angle: (N,), degrees, clockwise.
        shift: (N, 2), pixels to the right and downwards.
        mirrored: (N,), bool.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    radians = angle * (math.pi / 180)
    cos = radians.cos()
    sin = radians.sin()
    # the inverse map: an output pixel x shows the input at R^T (x - shift)
    first_row = torch.stack([cos, sin], dim=1)
    second_row = torch.stack([-sin, cos], dim=1)
    rotation = torch.stack([first_row, second_row], dim=1)  # (N, 2, 2)
    origin = -(rotation @ shift.unsqueeze(2))  # (N, 2, 1)
    sign = torch.where(mirrored, -1.0, 1.0)  # (N,)
    rotation[:, :, 0] *= sign.unsqueeze(1)
    half = torch.tensor([width, height]) / 2  # the unit of affine_grid is half a side
    column = half.unsqueeze(1)  # (2, 1)
    rotation = rotation * half / column
    return torch.cat([rotation, origin / column], dim=2)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Resample float images (B, C, H, W) by maps (B, 2, 3), with the nearest pixel and zero outside."""
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
