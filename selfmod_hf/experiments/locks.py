"""Locks of files, on every system. The system releases a lock when its process ends, however it ends."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout


def hold(path: Path, timeout: float = -1) -> ExitStack:
    """Wait for the lock of a file, and return it held. Closing it releases the lock.

    Args:
        path: of the file.
        timeout: seconds to wait at most. -1: without end.

    Raises:
        Timeout: another process held it all the time.
    """
    lock = FileLock(path, thread_local=False)
    lock.acquire(timeout=timeout)
    held = ExitStack()
    held.callback(lock.release)
    return held


def try_to_hold(path: Path) -> ExitStack | None:
    """Return the held lock of a file. None: another process holds it, or the file's folder is missing."""
    if not path.parent.is_dir():
        return None
    try:
        return hold(path, timeout=0)
    except Timeout:
        return None
