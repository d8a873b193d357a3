"""The server agrees with its OpenAPI document: schemathesis, with a fixed seed, finds no failure in 45 seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_CONFIG = _ROOT / "tests/schemathesis.toml"
_SEED, _MAX_S = 1, 45


@pytest.fixture
def cheap_server() -> Iterator[str]:
    """The address of the HTTP application with limits so low that every request is cheap."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "tests.cheap_server", str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", server)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail("the server does not start")


@pytest.mark.slow
def test_schemathesis_finds_no_failure(cheap_server: str, tmp_path: Path) -> None:
    schemathesis = Path(sys.executable).with_name("schemathesis")
    command = [str(schemathesis), "--config-file", str(_CONFIG), "run", f"{cheap_server}/openapi.json"]
    options = ["--seed", str(_SEED), "--max-time", str(_MAX_S), "--no-color"]
    run = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=_MAX_S + 60,
    )
    assert run.returncode == 0, run.stdout[-10_000:]
