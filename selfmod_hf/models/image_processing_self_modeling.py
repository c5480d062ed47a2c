"""Image processor of a self-modeling network.

The data loader decodes its training images by the methods of this class. A picture is therefore prepared for a trained
network exactly as the training images were, whether or not torchvision is installed.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.processing_utils import ImagesKwargs


class SelfModelingImageKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Add `num_channels` to the settings of every image processor."""

    num_channels: int | None


class SelfModelingImageProcessor(PilBackend):
    """Prepare pictures as the images of the training were prepared.

    A picture is turned upright by its EXIF tag and converted to RGB or grey. It is then resized, cropped if
    `do_center_crop` is true, divided by 255 and normalized. Pixels must be of 8 bits and opaque, because a conversion
    would cut off wider values and would show the hidden colours of transparent pixels.

    Args:
        size: ``{"height": ..., "width": ...}`` in pixels, or ``{"shortest_edge": ...}`` before a crop.
        do_center_crop: whether the middle of the resized picture is cut out. Default: False.
        crop_size: height and width of this middle. Missing pixels are black.
        num_channels: 1 for a network of grey images, 3 for RGB.
        resample: filter of the resizing, a number of `PIL.Image.Resampling`.
        image_mean: subtracted from pixel / 255, one number per channel.
        image_std: divides afterwards, one number per channel.

    Raises:
        ValueError: (when called) transparent pixels, fractions, or numbers outside of 0 to 255.

    Example:
        >>> processor = SelfModelingImageProcessor(size={"height": 8, "width": 8}, num_channels=1)
        >>> processor.pixels(Image.new("RGB", (20, 10))).shape
        (1, 8, 8)
    """

    valid_kwargs = SelfModelingImageKwargs
    num_channels = 3
    resample = Image.Resampling.BICUBIC
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    size = {"height": 224, "width": 224}  # noqa: RUF012 (read by transformers)
    do_resize = True
    do_rescale = True
    do_normalize = True

    def process_image(
        self, image: Any, num_channels: int | None = None, input_data_format: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Return a picture's pixels in its own size, (num_channels, height, width) uint8.

        Args:
            image: a PIL image, or an array or tensor of whole numbers from 0 to 255.
            num_channels: 1 or 3. Default: the processor's own.
            input_data_format: place of an array's channels, "channels_first" or "channels_last". Default: inferred.
            kwargs: further settings of transformers' image processors. They decide nothing here.

        Raises:
            ValueError: transparent pixels, fractions, or numbers outside of 0 to 255.
        """
        if not isinstance(image, Image.Image):
            image = _as_picture(np.asarray(image), input_data_format)
        picture = plain_picture(image)
        channels = num_channels or self.num_channels
        if channels == 1:
            grey = np.array(picture.convert("L"))
            return grey[None]
        colours = np.array(picture.convert("RGB"))
        return np.moveaxis(colours, -1, 0)

    def pixels(self, picture: Any, num_channels: int | None = None) -> np.ndarray:
        """Return a picture's pixels as the network sees them before normalization.

        The array has the shape (num_channels, height, width) and the type uint8. Errors are those of `process_image`.
        """
        own = self.process_image(picture, num_channels)
        size: Any = self.size  # transformers makes an object of it
        if own.shape[1:] == (size.height, size.width):
            return own
        resized = self.resize(own, size, self.resample)
        if self.do_center_crop:
            return self.center_crop(resized, self.crop_size)
        return resized


def plain_picture(picture: Image.Image) -> Image.Image:
    """Return the picture upright, as L or RGB.

    Raises:
        ValueError: transparent pixels, fractions, or numbers outside of 0 to 255, or a mode that cannot be converted.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # more than 8 bits per pixel: Pillow would cut them off silently
        pixels = _eight_bits(np.asarray(picture), f"mode {picture.mode}")
        return Image.fromarray(pixels)
    if picture.has_transparency_data:
        opacity = np.asarray(picture.convert("RGBA"))[:, :, 3]
        if opacity.min() < 255:
            raise ValueError(
                f"has transparent pixels (mode {picture.mode}); allowed are opaque images: paste them on a background "
                "first"
            )
    mode = "RGB" if num_channels_of(picture) == 3 else "L"
    return picture.convert(mode)


def num_channels_of(picture: Image.Image) -> int:
    """Return 1 for a picture of a grey mode, 3 for one of a colour mode or with a palette."""
    if picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I"):
        return 1
    return 3


def _as_picture(values: np.ndarray, input_data_format: Any) -> Image.Image:
    if values.ndim == 3:
        channels_at = input_data_format or infer_channel_dimension_format(values, num_channels=(1, 3, 4))
        if ChannelDimension(channels_at) == ChannelDimension.FIRST:
            values = np.moveaxis(values, 0, -1)
        if values.shape[-1] == 1:
            values = values[:, :, 0]
    pixels = _eight_bits(values, str(values.dtype))
    return Image.fromarray(np.ascontiguousarray(pixels))


def _eight_bits(values: np.ndarray, kind: str) -> np.ndarray:
    """Return the same numbers as uint8.

    Raises:
        ValueError: a number that does not fit into uint8.
    """
    if values.dtype == np.uint8:
        return values
    problem = ""
    if not np.all((values >= 0) & (values <= 255)):  # NaN is neither
        problem = "outside of 0 to 255"
    elif not np.all(values == np.floor(values)):
        problem = "that are no whole numbers"
    if problem:
        raise ValueError(
            f"has pixels {problem} ({kind}, from {values.min():g} to {values.max():g}); "
            "allowed are images of 8 bits: scale them to 0 to 255 first"
        )
    return values.astype(np.uint8)
