"""A PostgreSQL server of the tests: its own data, a free port, one user with a password."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "recognisable-pass+word"
QUOTED = "recognisable-pass%2Bword"  # as in a URL


def program(name: str) -> str | None:
    """Its path: Debian keeps PostgreSQL's programs out of PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or next(map(str, reversed(installed)), None)


def missing() -> str | None:
    """Why there is no server. None: there can be one."""
    if program("initdb") is None or program("postgres") is None:
        return "PostgreSQL (initdb, postgres) is not installed"
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"psycopg is not installed ({error})"
    return None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of a database. PostgreSQL does not run as root, so the user nobody runs it then."""
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    try:
        (folder / "password").write_text(PASSWORD)
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "nobody", "nogroup")
        data = folder / "data"
        initdb = [program("initdb"), "-D", data, "-U", "tuner", "-A", "scram-sha-256", "-N"]
        subprocess.run(
            [*initdb, f"--pwfile={folder / 'password'}"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **user
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ["-k", str(folder), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([program("postgres"), "-D", data, *flags], stderr=log, cwd=folder, **user)
        try:
            wait_for(port, server, folder / "log")
            yield f"postgresql://tuner:{QUOTED}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # SIGTERM waits for the clients
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 60
    while "ready to accept connections" not in log.read_text():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
