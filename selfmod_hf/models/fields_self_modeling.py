"""Ranges of the fields of a self-modeling network's configuration, and the errors for wrong values.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package.
"""

import functools
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from huggingface_hub.dataclasses import as_validated_field
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import PreTrainedConfig

# A configuration may come from a stranger. Larger values would take memory or time without end before anything can
# be counted. The size of the complete network is compared with the memory when the network is built.
MOST = 2**31 - 1  # of any size
MOST_CLASSES = 1_000_000
MOST_PIXELS = 16_384  # of one side
MOST_LAYERS = 1_000

_DTYPES = ("float32", "float64", "bfloat16", "float16")
INSIDE = ("own", "shuffled")  # a target_source that the network has for itself
NETWORK_SOURCE = "network:"  # beginning of a target_source with the name of another network
SIZES = f"allowed are integers from 1 to {MOST}"


# ---- ranges of single fields. Their types are the annotations of the configuration ----


@as_validated_field
def weight_field(value: Any) -> None:
    """Check the weight of a term of the loss."""
    if not 0 <= value <= sys.float_info.max:
        raise ValueError("allowed are finite numbers of at least 0")


@as_validated_field
def size_field(value: Any) -> None:
    """Check one size."""
    if value is not None and not 1 <= value <= MOST:
        raise ValueError(SIZES)


@as_validated_field
def sizes_field(value: Any) -> None:
    """Check a list of sizes."""
    in_range = all(1 <= size <= MOST for size in value)
    if len(value) > MOST_LAYERS or not in_range:
        raise ValueError(f"{SIZES}, at most {MOST_LAYERS} of them")


@as_validated_field
def image_sides_field(value: Any) -> None:
    """Check height and width, or one number for both."""
    if value is None:
        return
    sides = [value, value] if isinstance(value, int) else value
    in_range = all(1 <= side <= MOST_PIXELS for side in sides)
    if len(sides) != 2 or not in_range:
        raise ValueError(f"allowed are integers from 1 to {MOST_PIXELS}, one or height and width")


@as_validated_field
def label_names_field(value: Any) -> None:
    """Check the names of the classes."""
    if value is None:
        return
    count = len(value)
    numbers = set(map(str, value))
    are_numbered = numbers == set(map(str, range(count)))
    if not are_numbered or not 1 <= count <= MOST_CLASSES:
        raise ValueError(f"allowed are mappings of the numbers from 0 to the classes' names, at most {MOST_CLASSES}")


@as_validated_field
def source_field(value: Any) -> None:
    """Check the origin of the targets."""
    is_network = value.startswith(NETWORK_SOURCE) and value != NETWORK_SOURCE
    if value not in (*INSIDE, "random") and not is_network:
        raise ValueError(f"allowed are own, shuffled, random, {NETWORK_SOURCE}<folder or Hub id>")


@as_validated_field
def dtype_field(value: Any) -> None:
    """Check the type of the weights."""
    if value is None:
        return
    name = str(value).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"allowed are {', '.join(_DTYPES)}")


@as_validated_field
def architecture_field(value: Any) -> None:
    """Check all numbers of an encoder's or a timm model's description."""
    if isinstance(value, PreTrainedConfig):
        value = value.to_dict()
    for name, number in _integers_in(value):
        if abs(number) > _most(name):
            raise ValueError(
                f"{name}={number} is too large; allowed are integers of at most {MOST} "
                f"(layers {MOST_LAYERS}, classes {MOST_CLASSES}, image sides {MOST_PIXELS})"
            )


def _integers_in(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield all integers in nested mappings and lists, each with the name of its entry."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _integers_in(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _integers_in(item, name)
    elif isinstance(value, int):
        yield name, value


def _most(name: str) -> int:
    """Return the largest integer for an entry of this name. Layers and classes are counted one by one."""
    if name.endswith("image_size"):
        return MOST_PIXELS
    if "labels" in name:
        return MOST_CLASSES
    if name.endswith(("size", "dim", "width")):
        return MOST
    if re.search("layer|depth|block|repeat|stage", name):
        return MOST_LAYERS
    return MOST


def is_size(value: Any, most: int) -> bool:
    """Return whether an untyped value is an integer from 1 to `most`."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and 1 <= value <= most


# ---- errors ----


def raise_value_errors(strict_class: Any) -> Any:
    """Make a strict dataclass raise ValueErrors of one line.

    huggingface_hub raises errors of its own kind, on two lines. transformers raises TypeErrors and AttributeErrors for
    wrong values of its own fields.
    """
    strict_init = strict_class.__init__
    strict_setattr = strict_class.__setattr__

    @functools.wraps(strict_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            strict_init(self, *args, **kwargs)
        except StrictDataclassClassValidationError as error:
            raise ValueError(str(error.__cause__)) from error
        except (TypeError, AttributeError) as error:  # of a field of transformers' own
            raise ValueError(f"config: a field has a wrong type ({error})") from error

    def __setattr__(self: Any, name: str, value: Any) -> None:
        try:
            strict_setattr(self, name, value)
        except StrictDataclassFieldValidationError as error:
            reason = str(error.__cause__)
            if isinstance(error.__cause__, TypeError):
                field = strict_class.__dataclass_fields__[name]
                reason = _allowed_by(field.type)
            raise ValueError(f"{name}={shown(value)}: {reason}") from error

    strict_class.__init__ = __init__
    strict_class.__setattr__ = __setattr__
    return strict_class


def _allowed_by(annotation: Any) -> str:
    """Describe the values of an annotated type."""
    if get_origin(annotation) is Literal:
        values = ", ".join(get_args(annotation))
        return f"allowed are {values}"
    return f"allowed is {inspect.formatannotation(annotation)}"


def shown(value: Any) -> str:
    """Return a value as text, cut to 200 characters."""
    text = repr(value)
    if len(text) > 200:
        return f"{text[:200]}..."
    return text
