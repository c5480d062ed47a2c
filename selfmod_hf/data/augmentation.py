"""Random affine maps of training images, each image its own, as one batched resampling on the device.

Why not a library: torchvision's v2 transforms draw once per call, so that a whole batch moves alike (and per-image
calls are per-sample Python); kornia draws per image, but from torch's global generator, so that what an image gets
depends on its place in the batch, and it would be one more dependency. Here a draw is a function of seed, epoch and
the image's number alone: the same for any number of processes, of micro-batches, and for a member of a population.
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
    """Turn and shift images about their centre, then mirror some of them.

    The draws are those of torchvision's `RandomAffine` (nearest pixel, black border) and `RandomHorizontalFlip`.

    Attributes:
        degrees: the angle is uniform in [-degrees, degrees].
        translate: the shift along each axis is uniform up to this share of the side, in whole pixels.
        flip: probability of a mirror image.

    Raises:
        ValueError: a value outside its range.
    """

    degrees: float = 15.0
    translate: float = 0.1
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name, most in (("degrees", 180), ("translate", 1), ("flip", 1)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= most:
                raise InputError(name, value, f"allowed are numbers from 0 to {most}")

    def draw(self, num_images: int, height: int, width: int, seed: int, epoch: int) -> Tensor:
        """The maps of one epoch, (N, 2, 3): from output to input coordinates, as `affine_grid` takes them."""
        mixed = np.random.SeedSequence((seed, epoch, 0xAFF1)).generate_state(1, np.uint64)[0]
        uniform = torch.rand(num_images, 4, generator=torch.Generator().manual_seed(int(mixed)))
        angle = (2 * uniform[:, 0] - 1) * self.degrees
        most = torch.tensor([width, height]) * self.translate
        shift = ((2 * uniform[:, 1:3] - 1) * most).round()
        return affine_maps(angle, shift, uniform[:, 3] < self.flip, height, width)


def affine_maps(angle: Tensor, shift: Tensor, mirrored: Tensor, height: int, width: int) -> Tensor:
    """Maps (N, 2, 3) that turn by `angle`, move by `shift`, then mirror.

    Args:
        angle: (N,), degrees, clockwise.
        shift: (N, 2), pixels to the right and downwards.
        mirrored: (N,), bool.
    """
    cos, sin = (angle * (math.pi / 180)).cos(), (angle * (math.pi / 180)).sin()
    # the inverse map: an output pixel x shows the input at R^T (x - shift)
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)  # (N, 2, 2)
    origin = -(rotation @ shift[:, :, None])  # (N, 2, 1)
    sign = torch.where(mirrored, -1.0, 1.0)[:, None]
    rotation = torch.cat([rotation[:, :, :1] * sign[:, None], rotation[:, :, 1:]], dim=2)
    half = torch.tensor([width, height]) / 2  # affine_grid counts in half sides
    return torch.cat([rotation * half / half[:, None], origin / half[:, None]], dim=2)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Resample float images (B, C, H, W) by maps (B, 2, 3): the nearest pixel, zero outside."""
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
