"""The command line: `selfmod <command> ...`, the same entry points as the files of `scripts/`.

A command is a module with `run(argv)` and `flag_classes()`. It is imported when it is asked for.

Exit codes: 0 for success, 2 after one line about input (`usage_errors.py`), 1 after a traceback, 130 after Ctrl-C.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from ..experiments.setting import did_you_mean
from .arguments import current_spelling
from .usage_errors import UsageError, expected_line, print_rejection, with_flags


@dataclass(frozen=True)
class Command:
    """Describe a command for `selfmod --help` and Ctrl-C.

    Attributes:
        summary: its purpose.
        go_on: how to continue after an interruption.
    """

    summary: str
    go_on: str


SAME = "the same command goes on where this one stopped"
AGAIN = "the same command starts again"
COMMANDS = {
    "train": Command(
        "train one network", "the same command with --resume_from_checkpoint last goes on from the last checkpoint"
    ),
    "sweep": Command("train and measure the networks of a study", SAME),
    "rlct": Command("estimate the RLCT of a trained network", AGAIN),
    "report": Command("figures and tables of a sweep", AGAIN),
    "reproduce": Command("the paper's experiments: search, sweep, measures, figures, report", SAME),
    "tune": Command("search for accurate and simple networks", SAME),
    "push": Command("a model or a complete sweep to the Hub", AGAIN),
    "completion": Command("print the script that completes commands and flags in a shell", AGAIN),
}
INTERRUPTED = 130  # 128 + SIGINT, the shells' convention


def entry(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `main` as a process, with a safe end under a launcher of several processes.

    Threads of gloo can outlive their group (torch 2.14). They abort the process if they release a tensor while Python
    is torn down (pytorch/pytorch#179291, #190489). So a process among several ends without that. Its end is the first
    function registered with `atexit`, and so the last to run.
    """
    code: Any = 1  # a traceback's

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        atexit.register(leave)
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code or 0
        raise
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. An error while working passes."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that cannot show "nβ"
    if argv[:1] == ["help"]:  # `selfmod help train` is `selfmod train --help`
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        _print_commands()
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(f"selfmod_hf {__version__}")
        return 0
    try:
        _run(argv[0], argv[1:])
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"\nselfmod: interrupted: {COMMANDS[argv[0]].go_on}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        line = expected_line(error)
        if line is None:
            raise
        if argv[0] in COMMANDS:
            line = with_flags(line, _flags_of(module_of(argv[0])))
        print_rejection(error, line, argv)
        return 2
    return 0


def _print_commands() -> None:
    print("usage: selfmod COMMAND [flags]   (selfmod COMMAND --help explains them)\n")
    for name, described in COMMANDS.items():
        print(f"  {name:10} {described.summary}")


def _run(name: str, flags: list[str]) -> None:
    """Run a command, then close the process group of a launcher."""
    if name not in COMMANDS:
        allowed = f"allowed are {', '.join(COMMANDS)} (and --help, --version)"
        raise UsageError(f"command {name!r}: {allowed}{did_you_mean(name, COMMANDS)}")
    command = module_of(name)
    from ..hub.connection import be_patient

    be_patient()
    command.run(current_spelling(name, flags))
    if "torch" in sys.modules:
        from ..experiments.processes_together import close_process_group

        close_process_group()


def module_of(name: str) -> ModuleType:
    """Return the module of a command."""
    return import_module(f".{name}", __name__)


def _flags_of(command: ModuleType) -> list[str]:
    """Return the names of a command's flags."""
    names = []
    for group in command.flag_classes():
        names += [field.name for field in fields(group)]
    return names
