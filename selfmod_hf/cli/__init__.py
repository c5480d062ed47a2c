"""The command line: `selfmod <command> ...`, the same entry points as the files of `scripts/`.

A command is a module with `run(argv) -> None`, imported when it is asked for. It raises `UsageError` (or lets the
package's ValueErrors through while it prepares): the user sees one line, the exit code is 2. So it is where the disk
runs full, at whatever moment.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

COMMANDS = {
    "train": "train one network",
    "sweep": "train and measure the paper's grid of networks",
    "rlct": "estimate the RLCT of a trained network",
    "report": "figures and tables of a sweep",
    "reproduce": "the whole study: search, experiment, measures, figures, report",
    "tune": "search for accurate and simple networks",
    "push": "a model or a whole sweep to the Hub",
}

# how the system, safetensors (in its own exception) and torch (in RuntimeErrors, without a reason) say so
DISK_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "iostream error",
    "PytorchStreamWriter failed",
    "inline_container.cc",
)


class UsageError(Exception):
    """Something the user gave cannot be used; the message is one line."""


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
    """Run a command; returns the exit code (0; 2 for what the user can mend)."""
    argv = [_underscored(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that cannot show "nβ"
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: selfmod COMMAND [flags]   (selfmod COMMAND --help explains them)\n")
        print("\n".join(f"  {name:10} {summary}" for name, summary in COMMANDS.items()))
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
        command.run(argv[1:])
        _leave_together()
    except Exception as error:
        message = " ".join(str(error).split())
        if any(words in message for words in DISK_FULL):
            message = f"the disk seems to be full ({message}): free some space, then give the same command again"
        elif not isinstance(error, UsageError):
            raise
        from ..tokens import hide_tokens

        line = f"selfmod: error: {hide_tokens(message, argv)}"
        encoding = sys.stderr.encoding or "utf-8"  # a value may hold what the terminal, or UTF-8 itself, cannot show
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)
        return 2
    return 0


def _underscored(argument: str) -> str:
    """A flag as its dataclass spells it; argparse takes `--aux-weight` too."""
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if argument.startswith("--") else argument


def _leave_together() -> None:
    """Close the process group, where there is one: a process that ends while its peers still hold connections to it
    may be aborted."""
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
