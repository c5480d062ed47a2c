"""Preprocessing of images, as a pretrained backbone, a trained network, a task or its user asks for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor
from transformers.models.auto.image_processing_auto import get_image_processor_config

from ..errors import InputError
from ..files import entries_of, read_json
from ..models.configuration_self_modeling import SelfModelingConfig
from ..models.image_processing_self_modeling import SelfModelingImageProcessor

PerChannel = float | tuple[float, ...]  # one number, or one per channel
INTERPOLATIONS = tuple(method.name.lower() for method in Image.Resampling)
FIELDS = ("image_size", "image_mean", "image_std", "interpolation")
# settings of transformers' image processors that change pixels in unsupported ways
_NOT_FOLLOWED = ("do_flip_channel_order", "do_color_quantize", "do_grayscale", "rescale_offset")
_SAME_PIXELS = 0.05  # mean difference of normalized pixels that is rounding
_LEVIT_SHARE = 256 / 224  # of the length that LeViT's image processor is given
_CONVNEXT_WHOLE = 384  # from this size on, ConvNeXt's image processor resizes the complete picture


@dataclass(frozen=True)
class ImagePreprocessing:
    """Describe how a picture becomes the input of a network.

    The complete picture is resized to `image_size`, and the ratio of its sides is not kept. With `shortest_edge`, the
    shorter side is resized to this length, the ratio is kept, and the middle of `image_size` is cut out.

    Attributes:
        image_size: height and width in pixels. None: every image keeps its size.
        image_mean: subtracted from pixel / 255: one number, or one per channel.
        image_std: divides afterwards: one number, or one per channel.
        interpolation: filter of the resizing, named as in `PIL.Image.Resampling`, in lower case.
        num_channels: 1 (grey) or 3 (RGB). None: 3 if any image of the data has colours, else 1.
        source: origin of the values, for people.
        shortest_edge: length of the shorter side before the crop, in pixels. None: no crop.

    Raises:
        InputError: a value of a wrong type or outside its range.

    Example:
        >>> ImagePreprocessing(image_size=32, image_mean=[0.5, 0.5, 0.5]).changed(interpolation="nearest").source
        'package default; as given: interpolation'
    """

    image_size: tuple[int, int] | None = None
    image_mean: PerChannel = 0.5
    image_std: PerChannel = 0.5
    interpolation: str = "bicubic"
    num_channels: int | None = None
    source: str = "package default"
    shortest_edge: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_mean", "image_std"):
            numbers = _numbers(name, getattr(self, name))
            object.__setattr__(self, name, numbers)
        if self.interpolation not in INTERPOLATIONS:
            allowed = ", ".join(INTERPOLATIONS)
            raise InputError("interpolation", self.interpolation, f"allowed are {allowed}")
        if self.num_channels not in (None, 1, 3):
            raise InputError("num_channels", self.num_channels, "allowed are 1 (grey) and 3 (RGB)")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _sides(self.image_size))
        if self.shortest_edge is not None and not _is_length(self.shortest_edge):
            raise InputError("shortest_edge", self.shortest_edge, "allowed are integers of at least 1")

    def changed(self, **given: Any) -> ImagePreprocessing:
        """Return a copy with the given values in place. A None changes nothing. Another size ends the crop."""
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            return self
        source = f"{self.source}; as given: {', '.join(changes)}"
        changed = replace(self, **changes, source=source)
        if changed.image_size != self.image_size:
            return replace(changed, shortest_edge=None)
        return changed

    def for_images(self, channels: int, height: int, width: int) -> ImagePreprocessing:
        """Return the values for images of this shape.

        Raises:
            InputError: a number of means or deviations that does not match the channels.
        """
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if isinstance(values, tuple) and len(values) != channels:
                problem = f"has {len(values)} numbers; allowed are 1 and {channels}"
                raise InputError(name, values, f"{problem}, because the images have {channels} channels")
        return replace(self, image_size=(height, width), num_channels=channels)

    def processor(self) -> SelfModelingImageProcessor:
        """Return the image processor for these values. `image_size` and `num_channels` must be known."""
        assert self.image_size is not None
        assert self.num_channels is not None
        height, width = self.image_size
        sides: dict[str, Any] = {"size": {"height": height, "width": width}}
        if self.shortest_edge is not None:
            edge = {"shortest_edge": self.shortest_edge}
            sides = {"size": edge, "crop_size": sides["size"], "do_center_crop": True}
        return SelfModelingImageProcessor(
            **sides,
            num_channels=self.num_channels,
            resample=Image.Resampling[self.interpolation.upper()],
            image_mean=self._per_channel(self.image_mean),
            image_std=self._per_channel(self.image_std),
        )

    def _per_channel(self, values: PerChannel) -> list[float]:
        assert self.num_channels is not None
        if isinstance(values, tuple):
            return list(values)
        return [values] * self.num_channels

    def facts(self) -> dict[str, Any]:
        """Return the values in a form for JSON."""
        return asdict(self)


def _numbers(name: str, values: Any) -> PerChannel:
    """Return one number if the values of all channels are equal, else the tuple of them."""
    numbers = (values,)
    if isinstance(values, Sequence) and not isinstance(values, str):
        numbers = tuple(values)
    allowed = "finite numbers above 0" if name == "image_std" else "finite numbers"
    for number in numbers:
        is_number = isinstance(number, Real) and not isinstance(number, bool)
        usable = is_number and math.isfinite(number)
        if not usable or (name == "image_std" and number <= 0):
            raise InputError(name, values, f"allowed are {allowed}")
    if len(numbers) not in (1, 3):
        raise InputError(name, values, "allowed are one number or three (red, green, blue)")
    if len(set(numbers)) == 1:
        return float(numbers[0])
    return tuple(map(float, numbers))


def _sides(size: Any) -> tuple[int, int]:
    """Return height and width. A single number is both."""
    sides = (size, size)
    if isinstance(size, Sequence):
        sides = tuple(size)
    usable = len(sides) == 2
    for side in sides:
        usable = usable and _is_length(side)
    if not usable:
        raise InputError("image_size", size, "allowed are height and width, integers of at least 1")
    height, width = sides
    return int(height), int(width)


def _is_length(side: Any) -> bool:
    is_integer = isinstance(side, Integral) and not isinstance(side, bool)
    return is_integer and side >= 1


# ---- of a pretrained backbone ----


def backbone_preprocessing(name: str, *, revision: str = "main") -> ImagePreprocessing:
    """Return the preprocessing from the training of a pretrained backbone.

    A backbone of transformers that crops gets the same crop here. Other changes of a picture's shape are not followed:
    the complete picture is resized then. So are pictures for a backbone of timm.

    Args:
        name: Hub id or folder of a transformers encoder, or ``"timm/<name>"``, as for `from_backbone_pretrained`.
        revision: branch, tag or commit of the encoder's repository.

    Raises:
        InputError: unsupported preprocessing, or an unknown timm model.
        OSError: no such repository or folder.

    Example:
        >>> preprocessing = backbone_preprocessing("timm/resnet18.a1_in1k")
        >>> preprocessing.image_size, preprocessing.interpolation, preprocessing.image_mean
        ((224, 224), 'bicubic', (0.485, 0.456, 0.406))
    """
    if name.startswith("timm/"):
        return _of_timm(name)
    if not get_image_processor_config(name, revision=revision):
        warnings.warn(
            f"{name}: has no preprocessor_config.json; images keep their size, with mean 0.5 and deviation 0.5",
            stacklevel=2,
        )
        return ImagePreprocessing(source="package default, because the backbone has no preprocessor_config.json")
    return _of_transformers(name, revision)


def _of_timm(name: str) -> ImagePreprocessing:
    import timm
    from timm.data import resolve_data_config

    pretrained = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    if pretrained is None:
        raise InputError("backbone_name", name, "timm has no such pretrained model")
    config = resolve_data_config(pretrained_cfg=pretrained.to_dict(), verbose=False)
    channels, height, width = config["input_size"]
    return ImagePreprocessing(
        image_size=(height, width),
        image_mean=tuple(config["mean"]),
        image_std=tuple(config["std"]),
        interpolation=config["interpolation"],
        num_channels=channels,
        source=name,
    )


def _of_transformers(name: str, revision: str) -> ImagePreprocessing:
    try:
        processor = AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
    except ValueError as error:
        reason = " ".join(str(error).split())
        problem = f"its image processor cannot be read ({reason}); allowed are those of transformers"
        raise InputError("backbone_name", name, problem) from error
    for setting in _NOT_FOLLOWED:
        if getattr(processor, setting, None):
            fields = "`, `".join(FIELDS)
            problem = f"its image processor has {setting}, which is not followed here; give `{fields}` instead"
            raise InputError("backbone_name", name, problem)
    if getattr(processor, "size", None) is None and getattr(processor, "do_resize", True):
        raise InputError("backbone_name", name, "its image processor has no size; allowed are those that have one")
    encoder = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    mean, std = _normalization(processor)
    return ImagePreprocessing(
        image_size=_size_of(processor),
        image_mean=mean,
        image_std=std,
        interpolation=_interpolation_of(processor),
        num_channels=getattr(encoder, "num_channels", 3),
        source="the backbone's folder" if Path(name).is_dir() else name,
        shortest_edge=_shortest_edge(processor),
    )


def _normalization(processor: Any) -> tuple[Any, Any]:
    """Return mean and deviation of pixel / 255 with the same effect as the processor's own scale.

    The processor gives (factor * pixel - mean) / std.
    With s = 255 * factor this is (pixel / 255 - mean / s) / (std / s).
    """
    scale = 255.0
    if processor.do_rescale:
        scale = 255 * processor.rescale_factor
    mean, std = 0.0, 1.0
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    if getattr(processor, "include_top", None):  # EfficientNet's: divides once more
        std = (np.array(std) * processor.image_std).tolist()
    if math.isclose(scale, 1):
        return mean, std
    return (np.atleast_1d(mean) / scale).tolist(), (np.atleast_1d(std) / scale).tolist()


def _size_of(processor: Any) -> tuple[int, int] | None:
    """Return height and width of the processor's results. None: every image keeps its size."""
    if getattr(processor, "do_center_crop", None) and getattr(processor, "crop_size", None):
        size = dict(processor.crop_size)
    elif getattr(processor, "do_resize", True):
        size = dict(processor.size)
    else:
        return None
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if size.get("shortest_edge"):
        return size["shortest_edge"], size["shortest_edge"]
    return None


def _shortest_edge(processor: Any) -> int | None:
    """Return the length to which the processor resizes the shorter side before it crops. None: no such crop."""
    size = dict(processor.size or {})
    side = size.get("shortest_edge")
    if side is None or size.get("longest_edge") or getattr(processor, "do_pad", None):
        return None
    if not getattr(processor, "do_resize", True):
        return None
    share = getattr(processor, "crop_pct", None)  # ConvNeXt's, of the resized picture
    if getattr(processor, "do_center_crop", None):
        crop = dict(processor.crop_size)
        # a longer crop pads, which transformers does in two ways that differ by a pixel
        if type(processor).__name__.startswith("Levit"):
            side = int(_LEVIT_SHARE * side)
        pads = side < max(crop["height"], crop["width"])
        return None if pads or share is not None else side
    if share is None or side >= _CONVNEXT_WHOLE:
        return None
    return int(side / share)


def unfollowed(name: str, found: ImagePreprocessing) -> str | None:
    """Return what the image processor of a model does to a picture that its `ImagePreprocessing` does not do.

    Args:
        name: Hub id or folder of a transformers model.
        found: from `backbone_preprocessing`.

    Returns:
        A phrase, or None if all is followed, on a test picture as well.
    """
    if not get_image_processor_config(name):
        return None
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    return _unfollowed_shape(processor) or _unfollowed_pixels(processor, found)


def _unfollowed_pixels(processor: Any, found: ImagePreprocessing) -> str | None:
    """Return how the results for a test picture differ, or None."""
    rows, columns = np.mgrid[0:1:300j, 0:1:400j]
    waves = [np.sin(20 * rows + 7 * columns), np.cos(15 * columns), rows * columns]
    picture = Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))
    height, width = found.image_size or (picture.height, picture.width)
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    given = found.for_images(3, height, width).processor()(picture, return_tensors="np")["pixel_values"][0]
    if given.shape != expected.shape:
        return f"gives pictures of shape {expected.shape}"
    difference = float(np.abs(given - expected).mean())
    if difference > _SAME_PIXELS:
        return f"gives other pixels, of a test picture by {difference:.2g} in the mean"
    return None


def _unfollowed_shape(processor: Any) -> str | None:
    if getattr(processor, "do_pad", None):
        return "pads pictures"
    if _shortest_edge(processor) is not None:
        return None
    resizes = getattr(processor, "do_resize", True)
    side = dict(processor.size or {}).get("shortest_edge")
    if getattr(processor, "do_center_crop", None):
        is_resized_to_it = resizes and dict(processor.size) == dict(processor.crop_size)
        return None if is_resized_to_it else "crops the middle of a picture"
    if not resizes or side is None:
        return None
    return "keeps the ratio of a picture's sides" if getattr(processor, "crop_pct", None) is None else None


def _interpolation_of(processor: Any) -> str:
    resample = getattr(processor, "resample", None)
    if resample is None:
        return "bilinear"  # transformers' own default
    if isinstance(resample, int):
        return Image.Resampling(resample).name.lower()
    return str(getattr(resample, "value", resample))  # torchvision's names are the same in lower case


# ---- of a trained network ----


def network_preprocessing(folder: Path, config: SelfModelingConfig) -> ImagePreprocessing:
    """Return the preprocessing from the training of a saved network.

    Args:
        folder: folder of the network. Without a `preprocessor_config.json` the values are the package's defaults.
        config: configuration of the network. It decides size and channels.

    Raises:
        InputError: missing entries of the file, or entries of a wrong type.
    """
    channels, height, width = config.input_shape
    found = ImagePreprocessing(image_size=(height, width))
    if channels in (1, 3):
        found = replace(found, num_channels=channels)
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return found
    with entries_of(file):
        values = read_json(file)
        # version 0.1.0 wrote "bilinear" (transformers' default) beside networks trained on bicubic images
        interpolation = found.interpolation
        edge = None
        if values.get("image_processor_type") == SelfModelingImageProcessor.__name__:
            resampling = Image.Resampling(values["resample"])
            interpolation = resampling.name.lower()
            edge = values["size"].get("shortest_edge")
        return replace(
            found,
            image_mean=values["image_mean"],
            image_std=values["image_std"],
            interpolation=interpolation,
            shortest_edge=edge,
            source="the network's preprocessor_config.json",
        )
