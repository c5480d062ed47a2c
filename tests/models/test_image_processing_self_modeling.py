"""The image processor: pictures of all kinds, saved and loaded again, with and without torchvision."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from selfmod_hf.models import SelfModelingImageProcessor

COLOURS = ["RGB", "P", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX"]
GREYS = ["1", "L", "LA"]


def picture(mode: str = "RGB", size: tuple[int, int] = (12, 9), seed: int = 0) -> Image.Image:
    """An opaque picture of noise; width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert("L" if mode in GREYS else "RGB").convert(mode)


def processor(channels: int = 3, height: int = 6, width: int = 7) -> SelfModelingImageProcessor:
    return SelfModelingImageProcessor(
        size={"height": height, "width": width},
        num_channels=channels,
        image_mean=[0.4, 0.3, 0.2][:channels],
        image_std=[0.3, 0.2, 0.1][:channels],
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", COLOURS + GREYS)
def test_a_picture_of_any_mode_is_converted_resized_and_normalized(mode, channels):
    prepare = processor(channels)
    given = picture(mode)
    found = prepare(given, return_tensors="pt")["pixel_values"][0]
    converted = given.convert("RGB").convert("L" if channels == 1 else "RGB").resize((7, 6), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(converted)).view(6, 7, channels).permute(2, 0, 1)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (prepare.image_mean, prepare.image_std))
    torch.testing.assert_close(found, (pixels / 255 - mean) / std)


def test_arrays_and_tensors_are_taken_as_the_picture():
    prepare, array = processor(), np.array(picture())
    expected = prepare(picture(), return_tensors="np")["pixel_values"]
    for given in (array, array.transpose(2, 0, 1), torch.from_numpy(array), array.astype(np.int64)):
        assert np.array_equal(prepare(given, return_tensors="np")["pixel_values"], expected)
    both = prepare([array, picture()], return_tensors="np")["pixel_values"]
    assert np.array_equal(both, np.concatenate([expected, expected]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation):
    turned = picture()
    turned.getexif()[0x0112] = orientation
    transposed = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]  # fmt: skip
    upright = picture() if transposed is None else picture().transpose(transposed)
    assert np.array_equal(processor().pixels(turned), processor().pixels(upright))


def transparent(mode: str) -> Image.Image:
    image = picture("L" if mode == "LA" else "RGB")
    image.putalpha(128)
    return image.convert(mode) if mode != "P" else image.quantize()


UNUSABLE = {
    "half transparent": (transparent("RGBA"), "transparent pixels (mode RGBA)"),
    "half transparent grey": (transparent("LA"), "transparent pixels (mode LA)"),
    "half transparent palette": (transparent("P"), "transparent pixels (mode P)"),
    "fractions": (np.full((4, 4, 3), 0.5), "that are no whole numbers (float64, from 0.5 to 0.5)"),
    "fractions of a TIFF": (Image.fromarray(np.full((4, 4), 0.5, np.float32)), "no whole numbers (mode F"),
    "16 bits": (Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "outside of 0 to 255 (mode I;16"),
    "32 bits": (Image.fromarray(np.full((4, 4), -1, np.int32)), "outside of 0 to 255 (mode I,"),
    "NaN": (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "outside of 0 to 255 (mode F"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_pixels_that_a_conversion_would_change_are_rejected(case):
    given, problem = UNUSABLE[case]
    with pytest.raises(ValueError, match="allowed are") as error:
        processor()(given)
    assert problem in str(error.value)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_whole_numbers_of_8_bits_keep_their_values_in_a_wider_mode(mode):
    levels = np.arange(256).reshape(16, 16)
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    prepare = processor(1, 16, 16)
    assert np.array_equal(prepare.pixels(Image.fromarray(levels.astype(dtype)))[0], levels)


WITHOUT = """
import sys
sys.modules["selfmod_hf"] = sys.modules["torchvision"] = None  # importing them now fails
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor
folder = sys.argv[1]
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
np.save(f"{folder}/values.npy", processor(Image.open(f"{folder}/picture.png"), return_tensors="np")["pixel_values"])
"""


@pytest.mark.slow  # a process of its own
def test_a_saved_processor_gives_the_same_without_this_package_and_torchvision(tmp_path):
    processor().save_pretrained(tmp_path)
    picture().save(tmp_path / "picture.png")
    subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], check=True)
    expected = processor()(picture(), return_tensors="np")["pixel_values"]
    assert np.array_equal(np.load(tmp_path / "values.npy"), expected)


def test_a_saved_processor_is_found_by_its_name(tmp_path):
    """Without code of the folder: transformers knows the class once this package is imported."""
    processor(1).save_pretrained(tmp_path)
    for path in tmp_path.glob("*.py"):
        path.unlink()
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SelfModelingImageProcessor
    assert loaded.to_dict() == processor(1).to_dict() | {"auto_map": loaded.auto_map}
