"""The journal that the workers of a tuning share, and locks that end with their process."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock


def open_journal(path: Path) -> BaseStorage:
    """Return Optuna's storage in a file."""

    class Lock(JournalFileOpenLock):
        """Lock the journal, and cut off an incomplete line of a full disk.

        The system releases this lock when the process ends. Optuna's own lock stays, and is broken after half a
        minute. Optuna would read an incomplete line as one with the next.
        """

        def acquire(self) -> bool:
            self.file = path.with_name(f".{path.name}.lock").open("w")
            fcntl.flock(self.file, fcntl.LOCK_EX)
            with path.open("rb+") as journal:
                journal.seek(max(0, path.stat().st_size - 1))
                if journal.read() not in (b"", b"\n"):
                    journal.truncate(path.read_bytes().rfind(b"\n") + 1)
            return True

        def release(self) -> None:
            self.file.close()

    return JournalStorage(JournalFileBackend(str(path), Lock(str(path))))


def try_lock(path: Path) -> Any:
    """Return the locked file. None: another process holds it, or it is missing."""
    try:
        file = path.open("w")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
