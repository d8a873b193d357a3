"""An S3 server for tests: moto's, in a process of its own on the loopback."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ADDRESS = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
_REQUEST = re.compile(r'"(?:\x1b\[\d+m)*([A-Z]+) (\S+) HTTP')


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a client to this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    def requests(self) -> list[tuple[str, str]]:
        """The method and the path of every request so far."""
        return _REQUEST.findall(self.log.read_text())

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._send("PUT", f"/{name}")

    def refuse_keys(self) -> None:
        """Refuse every key from now on."""
        self._send("POST", "/moto-api/reset-auth", b"0")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(10)

    def _send(self, method: str, path: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(self.url + path, body, {"content-type": "text/plain"}, method=method)
        with urllib.request.urlopen(request, timeout=10):
            pass


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server for the time of the context; its log is in `folder`."""
    log = folder / "moto.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        while (started := _ADDRESS.search(log.read_text())) is None:
            assert process.poll() is None, log.read_text()
        yield S3Server(started[1], process, log)
    finally:
        process.terminate()
        process.wait(10)
