"""Settings as Python and the command line share them: fields with a help text, flags, checks."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, TypeAlias

from ..errors import InputError

Values: TypeAlias = Mapping[str, Any]  # by name
Say: TypeAlias = Callable[[str], None]  # takes a line of progress

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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return similar names as the end of a message. It is empty if none is similar.

    >>> did_you_mean("aux_wieght", ["aux_weight", "seed"])
    '; did you mean aux_weight?'
    """
    known = list(known)
    near = difflib.get_close_matches(name, known)
    if ELSEWHERE.get(name) in known:
        near = [ELSEWHERE[name]]
    if not near:
        return ""
    return f"; did you mean {', '.join(near)}?"


def check_finite(values: Mapping[str, Any]) -> None:
    """Raise an InputError for NaN and infinity. Exception: an infinite `max_grad_norm` clips nothing."""
    for name, value in values.items():
        if name == "max_grad_norm" and value == math.inf:
            continue
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(name, value, "allowed are finite numbers")
