"""`SharedFolder`: the trials, groups and locks of a tuning in a folder that all workers reach.

    journal.log             Optuna's journal
    groups/N/group.json     the trials of an unfinished group

Locks end with their process. The file system needs to have locks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ..files import to_json, write_file
from .locks import hold, try_to_hold
from .setting import Values


class SharedFolder:
    """Share a tuning in a folder.

    Args:
        folder: of the tuning.

    Attributes:
        study_name: of the study in the storage.
        storage: Optuna's.
        groups: folder of the groups' checkpoints.
        waits: whether a worker without work waits for the groups of the others.
    """

    study_name = "tune"
    waits = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups = folder / "groups"
        self.groups.mkdir(parents=True, exist_ok=True)
        self.storage = open_journal(folder / "journal.log")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the tuning, so that one worker at a time takes a group."""
        with hold(self.folder / ".study.lock"):
            yield

    def open(self, study: Any) -> None:
        """Do nothing, because a folder holds one study."""

    def open_groups(self) -> dict[str, dict[str, Any]]:
        """Return the unfinished groups, each with its content. Call it with the lock."""
        found = {}
        for path in sorted(self.groups.iterdir()):
            try:
                text = (path / "group.json").read_text(encoding="utf-8")
            except FileNotFoundError:
                shutil.rmtree(path, ignore_errors=True)  # of a worker that was killed while it began or removed it
            else:
                found[path.name] = json.loads(text)
        return found

    def begin_group(self, name: str, content: Values) -> Any:
        """Write the content of a group, and return its lock. Call it with the lock of the tuning."""
        path = self.groups / name
        path.mkdir(exist_ok=True)
        lock = try_to_hold(path / ".lock")
        write_file(path / "group.json", to_json(content))
        return lock

    def try_lock(self, name: str) -> Any:
        """Return the lock of a group. None: another worker holds it, or has finished it."""
        path = self.groups / name
        lock = try_to_hold(path / ".lock")
        if lock is None or (path / "group.json").is_file():
            return lock
        lock.close()
        return None

    def end_group(self, name: str) -> None:
        """Remove a finished group."""
        path = self.groups / name
        (path / "group.json").unlink()  # first, because it marks the folder as work in progress
        shutil.rmtree(path, ignore_errors=True)  # because another worker may remove it too


def open_journal(path: Path) -> BaseStorage:
    """Return Optuna's storage in a file."""

    class Lock(JournalFileOpenLock):
        """Lock the journal, and cut off an incomplete line of a full disk.

        The system releases this lock when the process ends. Optuna's own lock stays, and is broken after half a
        minute. Optuna would read an incomplete line as one with the next.
        """

        def acquire(self) -> bool:
            self.held = hold(path.with_name(f".{path.name}.lock"))
            with path.open("rb+") as journal:
                journal.seek(max(0, path.stat().st_size - 1))
                if journal.read() not in (b"", b"\n"):
                    journal.truncate(path.read_bytes().rfind(b"\n") + 1)
            return True

        def release(self) -> None:
            self.held.close()

    return JournalStorage(JournalFileBackend(str(path), Lock(str(path))))
