"""`SharedDatabase`: the trials, groups and locks of a tuning in PostgreSQL or MySQL.

Workers need no common file system. Each has a folder of its own for checkpoints and results.

* Optuna keeps the trials in its tables (`RDBStorage`). The storage gives each trial its number, and accepts one result
  of each.
* A group is an attribute of the study: its trials, or null after its end.
* A lock belongs to a worker's connection. The server releases it when the connection ends, however the worker ends.
  Optuna's heartbeat is not used, because it gives the trials of a killed worker new numbers, and so new seeds.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from ..errors import InputError
from ..extras import need
from ..tokens import without_secrets
from .setting import Values

TOKEN = "selfmod token"  # attribute of the study: names the folder of its checkpoints
GROUP = "selfmod group "  # attribute of the study, with the group's name
A_YEAR = 365 * 24 * 3600  # seconds
# a database -> the driver, and the extra of this package with it
DRIVERS = {"postgresql": ("psycopg", "postgres"), "mysql": ("pymysql", "mysql")}
# Settings of the connection that holds locks. It is idle for hours. The server notices a dead machine in two minutes.
_POSTGRESQL = {
    "lock_timeout": "0",
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "15",
    "tcp_keepalives_count": "4",
}


class SharedDatabase:
    """Share a tuning in a database.

    Args:
        url: of the database, `postgresql://user:password@host/name` or `mysql://...`.
        folder: of this worker. Its last name is the study's.

    Attributes:
        study_name: of the study in the storage.
        storage: Optuna's.
        groups: folder of the groups' checkpoints.
        waits: whether a worker without work waits for the groups of the others.

    Raises:
        InputError: another kind of database, or one that cannot be reached.
        ImportError: the driver is missing.
    """

    waits = True

    def __init__(self, url: str, folder: Path) -> None:
        address = _address(url)
        self.study_name = folder.resolve().name
        self._folder = folder
        self._study: Any = None
        self._owner = f"{address.database}/{self.study_name}"
        try:
            self._locks = _Locks(address)
            with self.lock():  # because two workers could create the tables at once
                options = {"pool_pre_ping": True}
                self.storage = RDBStorage(address.render_as_string(hide_password=False), engine_kwargs=options)
        except DBAPIError as error:
            reason = str(error.orig).splitlines()[0]
            raise InputError("storage", shown(url), f"cannot be used ({reason})") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the tuning, so that one worker at a time takes a group."""
        key = self._key("")
        self._locks.take(key)
        try:
            yield
        finally:
            self._locks.release(key)

    def open(self, study: Any) -> None:
        """Name the folder of the checkpoints after the study, and remove those of finished groups.

        A folder may hold checkpoints of another study of the same name, for example of a deleted database.
        """
        self._study = study
        token = study.user_attrs.get(TOKEN)
        if token is None:
            token = uuid4().hex
            study.set_user_attr(TOKEN, token)
        self.groups = self._folder / "groups" / token
        self.groups.mkdir(parents=True, exist_ok=True)
        for path in self.groups.iterdir():
            if path.name not in self.open_groups():
                shutil.rmtree(path, ignore_errors=True)

    def open_groups(self) -> dict[str, dict[str, Any]]:
        """Return the unfinished groups, each with its content. Call it with the lock."""
        found = {}
        for name, content in sorted(self._study.user_attrs.items()):
            if name.startswith(GROUP) and content is not None:
                found[name.removeprefix(GROUP)] = content
        return found

    def begin_group(self, name: str, content: Values) -> ExitStack:
        """Write the content of a group, and return its lock. Call it with the lock of the tuning."""
        self._locks.take(self._key(name))
        self._study.set_user_attr(GROUP + name, content)
        return self._held(name)

    def try_lock(self, name: str) -> ExitStack | None:
        """Return the lock of a group. None: another worker holds it, or has finished it."""
        if not self._locks.try_to_take(self._key(name)):
            return None
        lock = self._held(name)
        if name in self.open_groups():
            return lock
        lock.close()
        return None

    def end_group(self, name: str) -> None:
        """Remove a finished group."""
        self._study.set_user_attr(GROUP + name, None)
        shutil.rmtree(self.groups / name, ignore_errors=True)

    def _held(self, name: str) -> ExitStack:
        stack = ExitStack()
        stack.callback(self._locks.release, self._key(name))
        return stack

    def _key(self, name: str) -> bytes:
        """Return the name of a lock as a hash, because servers limit its length."""
        return hashlib.sha256(f"{self._owner}/{name}".encode()).digest()


class _Locks:
    """Take locks that belong to one connection.

    Args:
        address: of the database.
    """

    def __init__(self, address: sqlalchemy.URL) -> None:
        self._is_mysql = address.get_backend_name() == "mysql"
        self._engine = sqlalchemy.create_engine(address, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._connection = self._connect()

    def take(self, key: bytes) -> None:
        """Take a lock, and wait for it."""
        if self._is_mysql:
            self._ask("SELECT GET_LOCK(:name, :seconds)", name=key.hex(), seconds=A_YEAR)
        else:
            self._ask("SELECT pg_advisory_lock(:number)", number=_number(key))

    def try_to_take(self, key: bytes) -> bool:
        """Take a lock unless another worker holds it, and return whether it is taken."""
        if self._is_mysql:
            return bool(self._ask("SELECT GET_LOCK(:name, 0)", name=key.hex()))
        return bool(self._ask("SELECT pg_try_advisory_lock(:number)", number=_number(key)))

    def release(self, key: bytes) -> None:
        """Release a lock."""
        if self._is_mysql:
            self._ask("SELECT RELEASE_LOCK(:name)", name=key.hex())
        else:
            self._ask("SELECT pg_advisory_unlock(:number)", number=_number(key))

    def _ask(self, question: str, **values: Any) -> Any:
        """Return the answer of the server. A lost connection is opened again, without the locks that it had."""
        text = sqlalchemy.text(question)
        try:
            return self._connection.execute(text, values).scalar()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        self._connection = self._connect()
        return self._connection.execute(text, values).scalar()

    def _connect(self) -> sqlalchemy.Connection:
        connection = self._engine.connect()
        if self._is_mysql:
            connection.execute(sqlalchemy.text("SET SESSION wait_timeout = :seconds"), {"seconds": A_YEAR})
            return connection
        change = sqlalchemy.text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")
        for name, value in _POSTGRESQL.items():  # older servers lack some of them
            connection.execute(change, {"name": name, "value": value})
        return connection


def _number(key: bytes) -> int:
    return int.from_bytes(key[:8], "big", signed=True)


def shown(url: str) -> str:
    """Return the URL of a database without its password.

    Example:
        >>> shown("postgresql://me:secret@host/db")
        'postgresql://me:<hidden>@host/db'
    """
    return without_secrets(url)


def _address(url: str) -> sqlalchemy.URL:
    """Return a URL with its driver.

    Raises:
        InputError: no URL, or one of another kind of database.
        ImportError: the driver is missing.
    """
    try:
        address = sqlalchemy.make_url(url)
    except ArgumentError:
        raise InputError("storage", shown(url), "allowed are postgresql://user@host/name and mysql://...") from None
    kind = address.get_backend_name()
    if kind not in DRIVERS:
        raise InputError(
            "storage", shown(url), "allowed are URLs of postgresql and mysql; None is the folder's journal"
        )
    driver, extra = DRIVERS[kind]
    if "+" in address.drivername:
        return address
    need(f"a tuning in {kind}", extra, driver)
    return address.set(drivername=f"{kind}+{driver}")
