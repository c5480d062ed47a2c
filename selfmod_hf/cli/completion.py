"""`selfmod completion bash`: the script by which a shell completes commands, flags and values at the Tab key.

    selfmod completion bash > ~/.local/share/bash-completion/completions/selfmod

shtab writes the script once, from the parsers of all commands. So a Tab key starts no Python. With argcomplete each Tab
key would import torch, which takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..experiments.setting import setting
from ..extras import need
from . import COMMANDS, module_of
from .arguments import make_parser, parse
from .usage_errors import UsageError

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("accelerate_config", "config", "dataset_name")
FOLDERS = (
    "backbone_name", "checkpoints", "folder", "model", "output_dir", "resume_from", "resume_from_checkpoint",
    "tables_dir",
)  # fmt: skip
POSITIONAL = {"completion": "shell", "push": "folder", "report": "folder"}  # flags that a command takes as a bare value
TRUTH = ("True", "False")


@dataclass
class CompletionArguments:
    """Flags of the command."""

    shell: str | None = setting("bash, zsh or tcsh; may be given without the flag's name.")


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (CompletionArguments,)


def run(argv: Sequence[str]) -> None:
    """Print the script of a shell.

    Raises:
        UsageError: another shell.
        MissingExtraError: shtab is not installed.
    """
    (args,) = parse(make_parser("completion", *flag_classes()), argv, positional="shell")
    if args.shell not in SHELLS:
        raise UsageError(f"--shell={args.shell!r}: allowed are {', '.join(SHELLS)}")
    need("a completion script", "completion")
    import shtab

    places = {**dict.fromkeys(FILES, shtab.FILE), **dict.fromkeys(FOLDERS, shtab.DIRECTORY)}
    print(shtab.complete(completed_parser(places), args.shell))


def completed_parser(places: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Return a parser of all commands as shtab reads it. It parses nothing.

    Args:
        places: how shtab completes the flags of files and folders, by name.
    """
    parser = argparse.ArgumentParser(prog="selfmod")
    parser.add_argument("--version", action="version")
    commands = parser.add_subparsers()
    values = _known_values()
    for name, described in COMMANDS.items():
        command = commands.add_parser(name, help=described.summary, add_help=False)
        for action in make_parser(name, *module_of(name).flag_classes())._actions:
            flag = next(spelling for spelling in action.option_strings if spelling.startswith("--"))
            added = command.add_argument(flag, help=_plain_help(action))
            added.nargs = action.nargs
            added.choices = tuple(action.choices or values.get(action.dest, ()))
            if isinstance(action.const, bool):
                added.choices = TRUTH
        if name in POSITIONAL:
            command.add_argument(POSITIONAL[name], nargs="?").choices = values.get(POSITIONAL[name])
        for action in command._actions:
            if action.dest in places:
                action.complete = places[action.dest]  # type: ignore[attr-defined]
    return parser


def _known_values() -> dict[str, Sequence[str]]:
    """Return the values of flags without choices of their own, by name."""
    from ..complexity.samplers import SAMPLERS
    from ..data import TASKS
    from ..experiments.recipes import GRIDS

    return {
        "help": ("all",),
        "recipe": tuple(GRIDS),
        "sampler": tuple(SAMPLERS),
        "shell": SHELLS,
        "task": tuple(TASKS),
    }


def _plain_help(action: argparse.Action) -> str:
    """Return the help text of a flag without the marks of argparse."""
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%", "%%")
