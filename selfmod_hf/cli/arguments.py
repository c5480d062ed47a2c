"""Flags: dataclasses that transformers' HfArgumentParser reads from the command line and from a YAML or JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from ..experiments.setting import as_flags, check_finite, did_you_mean
from ..files import read_yaml
from .short_help import add_help
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from transformers import HfArgumentParser

    from ..data import TaskData

# old spellings of flags, by command
RENAMED: Mapping[str, Mapping[str, str]] = {
    "rlct": {"preset": "rlct_preset"},
    "tune": {"rlct_draws": "num_draws"},
}
MAY_BE_EMPTY = ("--hidden_sizes", "--target_layers", "--weight_decay_parameters")  # lists


def make_parser(
    command: str, *groups: Any, defaults: Mapping[str, Any] | None = None, epilog: str | None = None
) -> HfArgumentParser:
    """Return a parser for dataclasses of flags. Its errors are one line.

    Args:
        command: its name.
        groups: the dataclasses. A later one's flag replaces an earlier one's of the same name.
        defaults: in place of the dataclasses' own.
        epilog: end of the help.
    """
    from transformers import HfArgumentParser

    names: set[str] = set()
    for group in groups:
        names.update(field.name for field in dataclasses.fields(group))
    ours = dict(defaults or {})

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{message} ({self.prog} --help all explains the flags)")

        def add_argument(self, *flags: Any, **options: Any) -> Any:
            text = _help_with_flags(options.get("help") or "", names)
            if flags[0] in MAY_BE_EMPTY:
                options["nargs"] = "*"
            default = ours.get(flags[0].lstrip("-"), options.get("default", argparse.SUPPRESS))
            if flags[0].startswith("--no_"):
                text = f"The same as --{flags[0].removeprefix('--no_')} False."
            elif default not in (None, argparse.SUPPRESS) and "default" not in text:
                text = f"{text} (default: %(default)s)"
            return super().add_argument(*flags, **{**options, "help": text})

    name = f"selfmod {command}"
    parser = Parser(
        groups,
        prog=name,
        usage=f"{name} [--flag value ...]",
        epilog=epilog,
        allow_abbrev=False,
        conflict_handler="resolve",
        formatter_class=argparse.HelpFormatter,
        add_help=False,
    )
    add_help(parser, command)
    parser.set_defaults(**ours)
    return parser


def _help_with_flags(text: str, names: set[str]) -> str:
    """Return a help text with a flag in place of each field in backquotes."""
    return re.sub(r"`(\w+)`", lambda match: f"--{match[1]}" if match[1] in names else match[0], text)


def current_spelling(command: str, argv: Sequence[str]) -> list[str]:
    """Return the arguments of a command with the current spelling of each flag. A line names each old one."""
    renamed = RENAMED.get(command, {})
    found = []
    for argument in argv:
        if argument.startswith("--"):
            typed, equals, value = argument[2:].partition("=")
            old = typed.replace("-", "_")
            name = renamed.get(old, old)
            if name != old:
                print_note(f"--{old} is an old spelling of --{name}")
            argument = f"--{name}{equals}{value}"
        found.append(argument)
    return found


def typed_values(parser: HfArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the typed flags by name, in the order of the help.

    Raises:
        UsageError: an unknown flag, or a value of another type.
    """
    absent = object()
    names = [action.dest for action in parser._actions if action.dest != "help"]
    nothing = Namespace(**dict.fromkeys(names, absent))
    values, unknown = parser.parse_known_args(list(argv), nothing)
    _check_no_unknown(parser, unknown, names)
    return {name: value for name, value in vars(values).items() if value is not absent}


def _check_no_unknown(parser: HfArgumentParser, unknown: Sequence[str], names: Sequence[str]) -> None:
    """Raise a UsageError for the first argument of no flag. `names` are the flags, for a similar one."""
    if not unknown:
        return
    name = unknown[0].partition("=")[0]
    problem = "belongs to no flag"
    if name.startswith("-"):
        problem = f"no such flag{did_you_mean(name.strip('-').replace('-', '_'), names, '--')}"
    raise UsageError(f"{name}: {problem} ({parser.prog} --help all lists them)")


def parse(parser: HfArgumentParser, argv: Sequence[str], *, positional: str | None = None) -> tuple[Any, ...]:
    """Return the dataclasses with the values of these flags.

    Args:
        parser: for them.
        argv: as typed.
        positional: a field of the first dataclass. Its value may be given without a flag, anywhere except behind a
            switch such as --quiet.

    Raises:
        UsageError: an unknown flag, or a value of another type.
    """
    with one_line():
        *instances, unknown = parser.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
    if positional and unknown and not unknown[0].startswith("-") and getattr(instances[0], positional) is None:
        setattr(instances[0], positional, unknown.pop(0))
    values: dict[str, Any] = {}
    for instance in instances:
        values |= vars(instance)
    _check_no_unknown(parser, unknown, list(values))
    check_finite(values)
    return tuple(instances)


def with_config_file(typed: Mapping[str, Any], parser: HfArgumentParser) -> dict[str, Any]:
    """Return typed flags and those of the YAML or JSON file of `--config`, by name. Typed flags override the file's.

    Raises:
        UsageError: a missing file, no mapping, an unknown key, or a value of another type.
    """
    own = {name: value for name, value in typed.items() if name != "config"}
    path = typed.get("config")
    if path is None:
        return own
    with one_line():
        values = read_yaml("config", path)
    if type(values.get("seeds")) is int:  # in a file this is their number
        values["seeds"] = list(range(1, values["seeds"] + 1))
    known = [action.dest for action in parser._actions]
    for key in values:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise UsageError(f"--config {path}: unknown key {key!r}{hint} (keys are the flags without dashes)")
    return {**typed_values(parser, as_flags(values)), **own}


def print_note(text: str) -> None:
    """Print a note to the standard error. Of several processes the first one prints."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"selfmod: {text}", file=sys.stderr)


def note_unseen_classes(data: TaskData[Any]) -> None:
    """Print the classes that only test samples have, because no network can learn them."""
    shown = [f"{name} ({count} test samples)" for name, count in data.unseen_classes.items()]
    if shown:
        print_note(f"no training sample has these classes: {', '.join(shown)}")


def line_printer(quiet: bool) -> Callable[[str], None]:
    """Return the function for lines of progress. It prints them, unless `quiet` is True."""
    if quiet:
        return lambda line: None
    return lambda line: print(line, flush=True)


def quieten(quiet: bool) -> None:
    """Hide the progress bars of loading and writing files.

    With `--quiet`, or if standard error is no terminal, hide all progress bars.
    """
    import transformers

    from ..data.lazy_datasets import datasets

    transformers.utils.logging.disable_progress_bar()
    if quiet:
        transformers.utils.logging.set_verbosity_error()
    if quiet or not sys.stderr.isatty():
        with suppress(ModuleNotFoundError):
            datasets.disable_progress_bars()
