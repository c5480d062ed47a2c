"""Python processes that start with torch and other libraries already imported.

Imports cost a command seven seconds, and the suite starts hundreds of them. A server imports what reads no environment
of the Hugging Face clients, and each process is a fork of it. Environment, folder, arguments and output are its own,
and it can be killed. A test of threads, of a launcher or of another interpreter needs `subprocess`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import numpy as np

PRELOADED = [
    "pandas", "pyarrow.dataset", "pyarrow.parquet", "pydantic", "scipy.optimize", "scipy.stats", "sklearn.datasets",
    "sklearn.metrics", "sympy", "tests.warm", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor",
    "torch.utils.tensorboard", "torchvision",
]  # fmt: skip
FIXED = ("OMP_NUM_THREADS", "PYTHONHASHSEED", "PYTHONUTF8")  # the server has read them
SELFMOD = ["-c", "import sys; from selfmod_hf.cli import main; sys.exit(main(sys.argv[1:]))"]

_SEARCHED = list(sys.path)  # a test may add folders to this process's path, which its own processes must not search
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(PRELOADED)


def run(
    arguments: Sequence[object],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = False,
) -> CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end, as `subprocess.run([sys.executable, *arguments], ...)` does."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = start(arguments, env, cwd, output, errors)
        process.join()
        done = CompletedProcess(list(map(str, arguments)), _code(process), output.read_text(), errors.read_text())
    if check:
        done.check_returncode()
    return done


def run_two(
    arguments: Sequence[object], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> CompletedProcess[str]:
    """Run `python ARGUMENTS` as the two processes of `torchrun --nproc_per_node=2`. Their outputs are joined."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes, output, errors = [], "", ""
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(2):
            of_rank = dict(os.environ if env is None else env) | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            files = (Path(folder, f"output{rank}"), Path(folder, f"errors{rank}"))
            processes.append(start(arguments, of_rank, cwd, *files))
        _join_all(processes)
        for rank in range(2):
            output += Path(folder, f"output{rank}").read_text()
            errors += Path(folder, f"errors{rank}").read_text()
    codes = [_code(process) for process in processes]
    return CompletedProcess(list(map(str, arguments)), max(codes, key=abs), output, errors)


def _code(process: BaseProcess) -> int:
    assert process.exitcode is not None
    return process.exitcode


def _join_all(processes: list[BaseProcess]) -> None:
    """Wait for all of them. When one has failed, kill the others, which would wait for it."""
    running = list(processes)
    while running:
        wait([process.sentinel for process in running])
        if any(process.exitcode for process in processes):
            for process in running:
                process.kill()
        running = [process for process in running if process.is_alive()]


def start(
    arguments: Sequence[object],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: Path | str = os.devnull,
    errors: Path | str = os.devnull,
) -> BaseProcess:
    """Start `python ARGUMENTS`: a script and its arguments, `-c PROGRAM ...` or `-m MODULE ...`."""
    environment = dict(os.environ if env is None else env)
    for name in FIXED:
        assert environment.get(name) == os.environ.get(name), f"{name}: the server has read it"
    files = (str(output), str(errors))
    given = ([str(argument) for argument in arguments], _SEARCHED, environment, str(cwd or Path.cwd()), files)
    process = _FORKS.Process(target=_main, args=given)
    process.start()
    return process


def _main(
    arguments: list[str], searched: list[str], environment: dict[str, str], cwd: str, files: tuple[str, str]
) -> None:
    for number, name in enumerate(files, start=1):
        with open(name, "wb") as file:
            os.dup2(file.fileno(), number)
    sys.path[:] = searched
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    tempfile.tempdir = None  # another environment may name another folder
    np.random.seed()  # noqa: NPY002 the forks would share its state
    try:
        _execute(*arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # forks leave them out


def _execute(first: str, *rest: str) -> None:
    """Run what the arguments name as `__main__`."""
    if first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv[:] = list(rest)
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [first, *rest]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")
