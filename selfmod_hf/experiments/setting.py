"""Settings as Python and the command line share them: fields with a help text, flags, checks."""

from __future__ import annotations

import difflib
import json
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from ..errors import InputError

Values: TypeAlias = Mapping[str, Any]  # by name
Say: TypeAlias = Callable[[str], None]  # takes a line of progress

# plain types of fields, as a message names them
PLAIN = {bool: "True and False", int: "integers", float: "numbers", str: "texts", type(None): "None"}
NOT_USABLE = object()
ONE_OR_SEVERAL = ("text_column",)  # fields of one text or a list. A list of one is the text
_hints = cache(get_type_hints)  # because transformers' arguments have more than a hundred

# names of other tools
ELSEWHERE = {"lr": "learning_rate", "epochs": "num_train_epochs", "output": "output_dir", "dataset": "dataset_name"}


def setting(help: str, default: Any = None) -> Any:
    """Return a dataclass field with its help text for the command line.

    Args:
        help: the text. The command line shows a field's name in backquotes as a flag.
        default: value of the field.
    """
    return field(default=default, metadata={"help": help})


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Return values as a command line has them. None gives no flag.

    >>> as_flags({"aux_weight": 1.0, "hidden_sizes": [8, 4], "seed": None})
    ['--aux_weight=1.0', '--hidden_sizes', '8', '4']
    """
    flags = []
    for name, value in values.items():
        if value is None:
            continue
        entries = list(value) if isinstance(value, (list, tuple)) else [value]
        texts = list(map(_flag_text, entries))
        if len(texts) == 1:
            flags.append(f"--{name}={texts[0]}")  # because a value may begin with a minus sign
        else:
            flags += [f"--{name}", *texts]
    return flags


def _flag_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def is_number(text: str) -> bool:
    """Return whether a text is a number.

    >>> is_number("1e-3"), is_number("own-10")
    (True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return similar names as the end of a message. It is empty if none is similar.

    Args:
        name: as it was given.
        known: the names that exist.
        prefix: before each name in the message.

    >>> did_you_mean("aux_wieght", ["aux_weight", "seed"])
    '; did you mean aux_weight?'
    """
    known = list(known)
    near = difflib.get_close_matches(name, known)
    if ELSEWHERE.get(name) in known:
        near = [ELSEWHERE[name]]
    if not near:
        return ""
    shown = [prefix + similar for similar in near]
    return f"; did you mean {', '.join(shown)}?"


def check_finite(values: Mapping[str, Any]) -> None:
    """Raise an InputError for NaN and infinity. Exception: an infinite `max_grad_norm` clips nothing."""
    for name, value in values.items():
        if name == "max_grad_norm" and value == math.inf:
            continue
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(name, value, "allowed are finite numbers")


def check_names(owner: type, given: Mapping[str, Any]) -> None:
    """Raise an InputError for the first name that is no field of a dataclass."""
    known = [one.name for one in fields(owner)]
    for name, value in given.items():
        if name not in known:
            raise InputError(name, value, f"no setting has this name{did_you_mean(name, known)}")


def check_types(settings: Any) -> None:
    """Check each field of a dataclass, and set it to what `typed_value` returns.

    Raises:
        InputError: a value of another type than its field.
    """
    for one in fields(settings):
        value = typed_value(type(settings), one.name, getattr(settings, one.name))
        object.__setattr__(settings, one.name, value)  # because some of these dataclasses are frozen


def typed_value(owner: type, name: str, value: Any) -> Any:
    """Return a value in the type of its field.

    Whole floats become integers if the field is one of integers. Tuples and ranges become lists. Paths become texts.
    A field of an unusual type, such as a dict or an enumeration, is not checked.

    Args:
        owner: the dataclass.
        name: of its field.
        value: for this field.

    Raises:
        InputError: a value of another type.
    """
    if name in ONE_OR_SEVERAL and isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    choices = types_of(owner, name)
    if not all(map(_is_checked, choices)):
        return value
    for choice in choices:
        if get_origin(choice) is not list:
            found = _in_type(value, choice)
            if found is not NOT_USABLE:
                return found
        elif isinstance(value, (list, tuple, range)):
            (of_entries,) = get_args(choice)
            entries = [_in_type(entry, of_entries) for entry in value]
            if NOT_USABLE not in entries:
                return entries
    named = " or ".join(map(_words, choices))
    raise InputError(name, value, f"allowed are {named}")


@cache
def types_of(owner: type, name: str) -> tuple[Any, ...]:
    """Return the types of a dataclass's field: those of a union, or the type itself."""
    hint = _hints(owner)[name]
    if get_origin(hint) in (Union, types.UnionType):
        return get_args(hint)
    return (hint,)


def _is_checked(hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is list:
        return get_args(hint)[0] in PLAIN
    return hint in PLAIN or origin in (Literal, Mapping)


def _in_type(value: Any, hint: Any) -> Any:
    """Return the value in a type other than a list. NOT_USABLE: it is of another type."""
    origin = get_origin(hint)
    if origin is Literal:
        is_usable = any(value is choice or value == choice for choice in get_args(hint))
    elif origin is Mapping:
        is_usable = isinstance(value, Mapping)
    elif hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    elif hint not in (int, float):
        is_usable = isinstance(value, hint)
    elif isinstance(value, bool):
        is_usable = False
    elif isinstance(value, Integral):
        return int(value)
    elif isinstance(value, Real) and (hint is float or float(value).is_integer()):
        return hint(float(value))  # numpy's too, which JSON does not know
    else:
        is_usable = False
    return value if is_usable else NOT_USABLE


def _words(hint: Any) -> str:
    """Return the values of a type in words."""
    origin = get_origin(hint)
    if origin is list:
        return f"lists of {PLAIN[get_args(hint)[0]]}"
    if origin is Literal:
        return ", ".join(map(repr, get_args(hint)))
    return PLAIN.get(hint, "mappings")
