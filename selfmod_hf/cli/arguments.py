"""Flags: dataclasses read by transformers' HfArgumentParser, from a recipe, a YAML or JSON file, and the command line.

The three are one list of flags, the later ones winning: recipe, then `--config` file, then what was typed.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..files import read_yaml
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from transformers import HfArgumentParser


def make_parser(
    command: str, *dataclasses: Any, defaults: Mapping[str, Any] | None = None, epilog: str | None = None
) -> HfArgumentParser:
    """A parser for these dataclasses whose errors are one line.

    Args:
        command: its name.
        dataclasses: of flags.
        defaults: in place of the dataclasses' own.
        epilog: what the help says at its end.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{message} ({self.prog} --help explains the flags)")

        def add_argument(self, *names: Any, **settings: Any) -> Any:
            text = settings.get("help", "")
            default = ours.get(names[0].lstrip("-"), settings.get("default", argparse.SUPPRESS))
            if names[0].startswith("--no_"):
                settings["help"] = f"The same as --{names[0].removeprefix('--no_')} False."
            elif default not in (None, argparse.SUPPRESS) and "default" not in text:
                settings["help"] = f"{text} (default: %(default)s)"
            return super().add_argument(*names, **settings)

    name, ours = f"selfmod {command}", dict(defaults or {})
    parser = Parser(
        dataclasses,
        prog=name,
        usage=f"{name} [--flag value ...]",
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.HelpFormatter,
    )
    parser.set_defaults(**ours)
    return parser


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Return values as flags: {"aux_weight": 1.0, "hidden_sizes": [8, 4]} -> --aux_weight 1.0 --hidden_sizes 8 4.

    None gives no flag.
    """
    flags = []
    for name, value in values.items():
        if value is None:
            continue
        texts = value if isinstance(value, (list, tuple)) else [value]
        # --name=value, since a value may begin with a minus sign
        texts = [json.dumps(text) if isinstance(text, dict) else str(text) for text in texts]
        flags += [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
    return flags


def read_config_file(path: str, parser: HfArgumentParser) -> dict[str, Any]:
    """The flags in a YAML or JSON file.

    Raises:
        UsageError: no such file, no mapping, or a key that is no flag.
    """
    with one_line():
        values = read_yaml("config", path)
    known = vars(parser.parse_args([]))
    for key in values:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise UsageError(f"--config {path}: unknown key {key!r}{hint} (keys are the flags without dashes)")
    return values


# what other tools call these
_ELSEWHERE = {"lr": "learning_rate", "epochs": "num_train_epochs", "output": "output_dir", "dataset": "dataset_name"}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Names that may have been meant, as the end of a message; empty where none is near."""
    known = list(known)
    near = [_ELSEWHERE[name]] if _ELSEWHERE.get(name) in known else difflib.get_close_matches(name, known)
    return f"; did you mean {', '.join(near)}?" if near else ""


def parse(parser: HfArgumentParser, flags: Sequence[str], *, positional: str | None = None) -> tuple[Any, ...]:
    """The dataclasses these flags fill.

    Args:
        parser: for them.
        flags: as typed.
        positional: the field of the first dataclass whose value may be given without a flag, anywhere but behind a
            switch such as --quiet, which would take it.

    Raises:
        UsageError: an unknown flag, or a value that a flag does not take.
    """
    with one_line():
        *instances, unknown = parser.parse_args_into_dataclasses(
            list(flags), return_remaining_strings=True, look_for_args_file=False
        )
    if positional and unknown and not unknown[0].startswith("-") and getattr(instances[0], positional) is None:
        setattr(instances[0], positional, unknown.pop(0))
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            raise UsageError(f"{name}: belongs to no flag ({parser.prog} --help lists them)")
        fields = [field.name for instance in instances for field in dataclasses.fields(instance)]
        hint = did_you_mean(name.strip("-"), fields)
        raise UsageError(f"{name}: no such flag{hint} ({parser.prog} --help lists them)")
    for instance in instances:
        check_finite(instance)
    return tuple(instances)


def check_finite(instance: Any) -> None:
    """Refuse NaN and infinity, which mean nothing anywhere (but "clip nothing, log the norm")."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        numbers = value if isinstance(value, list) else [value]
        finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
        if not finite and (field.name, value) != ("max_grad_norm", math.inf):
            raise UsageError(f"--{field.name} {value}: allowed are finite numbers")


def check_output_dir(folder: str | Path | None) -> None:
    """Refuse a folder that cannot be made or written to; None, a command's own, is one that can."""
    if folder is None:
        return
    if "\0" in str(folder):
        raise UsageError(f"--output_dir {str(folder)!r}: allowed are names without a null character")
    try:
        place = next(place for place in (Path(folder), *Path(folder).parents) if place.exists())
        if not place.is_dir():
            raise UsageError(f"--output_dir {folder}: cannot be written to ({place} is no folder)")
        with tempfile.TemporaryFile(dir=place):  # asking for permission is not enough for root, or over a network
            pass
    except OSError as error:
        raise UsageError(f"--output_dir {folder}: cannot be written to ({error.strerror})") from error


def print_note(text: str) -> None:
    """Print a line that is no error, on the standard error; of several processes the first one does."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"selfmod: {text}", file=sys.stderr)


def quieten(quiet: bool) -> None:
    """Hide the progress bars of loading and writing files.

    With `--quiet`, or if standard error is no terminal, hide all progress bars.
    """
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if quiet:
        transformers.utils.logging.set_verbosity_error()
    if quiet or not sys.stderr.isatty():
        datasets.disable_progress_bars()
