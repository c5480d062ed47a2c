"""Locks of files, on every system. The system releases a lock when its process ends, however it ends."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout


def hold(path: Path) -> ExitStack:
    """Wait for the lock of a file, and return it held. Closing it releases the lock."""
    lock = FileLock(path, thread_local=False)
    lock.acquire()
    held = ExitStack()
    held.callback(lock.release)
    return held


def try_to_hold(path: Path) -> ExitStack | None:
    """Return the held lock of a file. None: another process holds it, or the file's folder is missing."""
    if not path.parent.is_dir():
        return None
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    held = ExitStack()
    held.callback(lock.release)
    return held
