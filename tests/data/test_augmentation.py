"""Random affine maps: against torchvision's, image by image; seeded; the same however batches are cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmod_hf.data import EpochBatchSampler, ImageTensors, RandomAffine, TensorDataLoader
from selfmod_hf.data.augmentation import affine_maps, warp
from selfmod_hf.data.batches import MemberBatchSampler


@settings(max_examples=30, deadline=None)
@given(
    angle=st.floats(-180, 180),
    shift=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    mirrored=st.booleans(),
    size=st.tuples(st.integers(4, 12), st.integers(4, 12)),
)
def test_one_image_moves_as_torchvision_moves_it(angle, shift, mirrored, size):
    from torchvision.transforms import functional as torchvision

    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torchvision.affine(images, angle=angle, translate=list(shift), scale=1.0, shear=[0.0, 0.0])
    expected = torchvision.hflip(expected) if mirrored else expected
    double = torch.float64
    maps = affine_maps(
        torch.tensor([angle], dtype=double), torch.tensor([shift], dtype=double), torch.tensor([mirrored]), *size
    )
    found = warp(images, maps)
    # a pixel whose source lies on the border of two may round either way
    assert (found != expected).float().mean() <= 0.1


def test_the_draws_are_what_was_asked_for():
    draws = RandomAffine(degrees=15, translate=0.1, flip=0.5)
    maps = draws.draw(20_000, 32, 32, seed=1, epoch=0).double()
    mirrored = maps[:, 0, 0] < 0
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.02)
    angle = torch.rad2deg(torch.asin(maps[:, 0, 1]))
    assert angle.abs().max() <= 15
    assert angle.std().item() == pytest.approx(15 / 3**0.5, rel=0.02)
    rotation = maps[:, :, :2]
    sign = torch.where(mirrored, -1.0, 1.0).double()
    unturned = rotation * torch.stack([sign, torch.ones_like(sign)], 1)[:, None]
    shift = -(unturned.mT @ maps[:, :, 2:]).squeeze(2) * 16  # in pixels
    torch.testing.assert_close(shift, shift.round(), rtol=0, atol=1e-4)
    assert shift.abs().max().round() == 3


@pytest.mark.parametrize("unusable", [-5, 181, float("nan"), "10", True, None])
@pytest.mark.parametrize("name", ["degrees", "translate", "flip"])
def test_a_range_that_is_none_is_refused(name, unusable):
    with pytest.raises(ValueError, match=rf"^{name}={unusable!r}: allowed are numbers from 0 to \d+$"):
        RandomAffine(**{name: unusable})
    RandomAffine(degrees=180, translate=1, flip=1)
    RandomAffine(degrees=0, translate=0, flip=0)


def test_a_draw_depends_on_seed_epoch_and_image_alone():
    draws = RandomAffine()
    torch.manual_seed(5)
    first = draws.draw(50, 8, 8, seed=1, epoch=2)
    torch.manual_seed(6)
    assert torch.equal(first, draws.draw(50, 8, 8, seed=1, epoch=2))
    assert not torch.equal(first, draws.draw(50, 8, 8, seed=1, epoch=3))
    assert not torch.equal(first, draws.draw(50, 8, 8, seed=2, epoch=2))


def images(augmentation: RandomAffine | None = None) -> ImageTensors:
    pixels = torch.randint(0, 256, (11, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageTensors(pixels, torch.arange(11), augmentation=augmentation)


def epoch_of(loader: TensorDataLoader, epoch: int) -> dict[int, torch.Tensor]:
    loader.set_epoch(epoch)
    seen = {}
    for batch in loader:
        for label, image in zip(batch["labels"].flatten(), batch["pixel_values"].flatten(0, -4), strict=True):
            if label >= 0:
                seen[int(label)] = image
    return seen


def test_an_image_gets_its_draw_in_whatever_batch_and_process():
    whole = epoch_of(TensorDataLoader(images(RandomAffine()), EpochBatchSampler(11, 11, seed=3)), 1)
    shares = [
        epoch_of(TensorDataLoader(images(RandomAffine()), EpochBatchSampler(11, 2, 3, 3, index)), 1)
        for index in range(3)
    ]
    together = {label: image for share in shares for label, image in share.items()}
    assert together.keys() == whole.keys()
    assert all(torch.equal(together[label], image) for label, image in whole.items())
    plain = images()
    assert not any(torch.equal(image, plain[label]["pixel_values"]) for label, image in whole.items())
    assert torch.equal(
        images(RandomAffine())[4]["pixel_values"], plain[4]["pixel_values"]
    )  # for evaluation and sampling


def test_members_of_a_population_see_what_they_see_alone():
    samplers = [EpochBatchSampler(11, 4, seed) for seed in (5, 6)]
    loader = TensorDataLoader(images(RandomAffine()), MemberBatchSampler(samplers))
    loader.set_epoch(2)
    alone = [TensorDataLoader(images(RandomAffine()), EpochBatchSampler(11, 4, seed)) for seed in (5, 6)]
    for single in alone:
        single.set_epoch(2)
    for both, *batches in zip(loader, *alone, strict=True):
        for name, values in both.items():
            assert torch.equal(values, torch.stack([batch[name] for batch in batches]))
