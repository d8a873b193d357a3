"""A PostgreSQL server of its own, in a temporary folder on a free port, for tests and benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

#: Where Debian puts the programs of a server, which are not on the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_START_S = 30


def find_programs() -> Path | None:
    """Return the folder of `initdb` and `postgres`, or None if this machine has none."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    return next((file.parent for file in sorted(_DEBIAN.glob("*/bin/initdb"), reverse=True)), None)


@dataclass
class Postgres:
    """A running server. Its only user may do everything."""

    programs: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://atelier@127.0.0.1:{self.port}/{name}"

    def new_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def start(self) -> None:
        """Start the server; returns when it takes connections."""
        options = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=200")
        self.process = _run_as_user(
            [str(self.programs / "postgres"), "-D", str(self.folder), "-p", str(self.port), *options]
        )
        end_s = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > end_s or self.process.poll() is not None:
                    raise
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """Kill all processes of the server at once, as a loss of power does."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def postgres(programs: Path) -> Iterator[Postgres]:
    """Run a server for the time of the context."""
    with tempfile.TemporaryDirectory(prefix="postgres", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.getuid() == 0:
            shutil.chown(folder, _user().pw_name)
        init = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "atelier", "--auth=trust", "--no-sync"]
        made = _run_as_user(init)
        assert made.wait() == 0, "initdb failed"
        server = Postgres(programs, folder / "data", _free_port())
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _run_as_user(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own and, because Postgres refuses root, as another user."""
    user = {"user": _user().pw_uid, "group": _user().pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/", **user
    )


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
