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

from .arguments import current_spelling
from .usage_errors import UsageError


@dataclass(frozen=True)
class Command:
    """What `selfmod --help` and Ctrl-C say of a command.

    Attributes:
        summary: what it does.
        go_on: what to do after it was interrupted.
    """

    summary: str
    go_on: str


SAME = "the same command goes on where this one stopped"
AGAIN = "the same command starts again"
COMMANDS = {
    "train": Command(
        "train one network", "the same command with --resume_from_checkpoint last goes on from the last checkpoint"
    ),
    "sweep": Command("train and measure the paper's grid of networks", SAME),
    "rlct": Command("estimate the RLCT of a trained network", AGAIN),
    "report": Command("figures and tables of a sweep", AGAIN),
    "reproduce": Command("the whole study: search, experiment, measures, figures, report", SAME),
    "tune": Command("search for accurate and simple networks", SAME),
    "push": Command("a model or a whole sweep to the Hub", AGAIN),
}
INTERRUPTED = 130  # 128 + SIGINT, the shells' convention


def entry(argv: Sequence[str] | None = None) -> NoReturn:
    """A process of its own: `main`, and an end that is safe under a launcher of several processes.

    Threads of gloo can outlive their group (torch 2.14), and abort the process if they let go of a tensor while Python
    is torn down (pytorch/pytorch#179291, #190489). So a process among several leaves without that, after what others
    have registered with `atexit`: the first to be registered is the last to run.
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
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: selfmod COMMAND [flags]   (selfmod COMMAND --help explains them)\n")
        print("\n".join(f"  {name:10} {command.summary}" for name, command in COMMANDS.items()))
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(f"selfmod_hf {__version__}")
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise UsageError(f"command {argv[0]!r}: allowed are {', '.join(COMMANDS)} (and --help, --version)")
        command = import_module(f".{argv[0]}", __name__)
        from ..hub.connection import be_patient

        be_patient()
        argv[1:] = current_spelling(argv[0], argv[1:])
        command.run(argv[1:])
        _leave_together()
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"\nselfmod: interrupted: {COMMANDS[argv[0]].go_on}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from .usage_errors import expected_line, print_rejection, with_flags

        line = expected_line(error)
        if line is None:
            raise
        if argv[0] in COMMANDS:
            line = with_flags(line, _flags_of(command))
        print_rejection(error, line, argv)
        return 2
    return 0


def _flags_of(command: ModuleType) -> set[str]:
    return {field.name for cls in command.flag_classes() for field in fields(cls)}


def _leave_together() -> None:
    """Close the process group if there is one.

    A process that ends while its peers still hold connections to it may be aborted.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
