"""Flags: dataclasses read by transformers' HfArgumentParser, from a recipe, a YAML or JSON file, and the command line.

The three are one list of flags, the later ones winning: recipe, then `--config` file, then what was typed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import HfArgumentParser


def make_parser(command: str, *dataclasses: Any) -> HfArgumentParser:
    """A parser for these dataclasses whose errors are one line."""
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{message} ({self.prog} --help explains the flags)")

    return Parser(dataclasses, prog=f"selfmod {command}", allow_abbrev=False)


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """The flags that say the same: {"aux_weight": 1.0, "hidden_sizes": [8, 4]} -> --aux_weight 1.0 --hidden_sizes 8 4.
    None says nothing."""
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
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML too
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: cannot be read ({error})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"--config {path}: is neither YAML nor JSON ({error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path}: allowed is a mapping of flags to values")
    known = vars(parser.parse_args([]))
    for key in values:
        if key not in known:
            import difflib

            close = difflib.get_close_matches(str(key), known, n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise UsageError(f"--config {path}: unknown key {key!r}{hint} (keys are the flags without dashes)")
    return values


def parse(parser: HfArgumentParser, flags: Sequence[str]) -> tuple[Any, ...]:
    """The dataclasses these flags fill.

    Raises:
        UsageError: an unknown flag, or a value that a flag does not take.
    """
    with one_line():
        *instances, unknown = parser.parse_args_into_dataclasses(
            list(flags), return_remaining_strings=True, look_for_args_file=False
        )
    if unknown:
        raise UsageError(f"{unknown[0]}: no such flag ({parser.prog} --help lists them)")
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


@contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors of preparing (wrong values, files, a Hub that says no) into a `UsageError`."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx
    from safetensors import SafetensorError

    try:
        yield
    except httpx.TransportError as error:
        raise UsageError(f"the connection to the Hub failed ({error or type(error).__name__}); try again") from error
    except (ValueError, OSError, ImportError, HfHubHTTPError, SafetensorError) as error:
        raise UsageError(str(error) or type(error).__name__) from error


def quieten(quiet: bool) -> None:
    """Without the bars of loading and writing files, shorter than they are; with `--quiet`, and where nobody looks,
    without any."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if quiet:
        transformers.utils.logging.set_verbosity_error()
    if quiet or not sys.stderr.isatty():
        datasets.disable_progress_bars()
