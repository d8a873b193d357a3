"""`python -m deployments.run`, as `make run` calls it, in a process of its own."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_WAIT_S = 240
_DEPLOYMENTS = {"Router", "Worker", "TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The default config, on a free port."""
    settings = yaml.safe_load((_ROOT / "serve_config.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        settings["http_options"]["port"] = probe.getsockname()[1]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@contextmanager
def running(config: Path, variables: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run the program with further environment variables, until the context is left."""
    # Ray's own folder leaves `session_latest` to the cluster of the other tests. Its name is short, because paths of
    # Unix sockets are limited in length.
    ray_folder = tempfile.mkdtemp(prefix="ray")
    environment = {**os.environ, "RAY_TMPDIR": ray_folder, "RAY_ADDRESS": "127.0.0.1:1", "PYTHONUNBUFFERED": "1"}
    environment |= variables or {}
    with subprocess.Popen(
        [sys.executable, "-m", "deployments.run", str(config)],
        cwd=_ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        limit = threading.Timer(_WAIT_S, process.terminate)
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.terminate()
            process.wait(_WAIT_S)
            shutil.rmtree(ray_folder, ignore_errors=True)


def until(process: subprocess.Popen[str], end: str) -> list[str]:
    """The lines of a process to the one with this end."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if lines[-1].endswith(end):
            return lines
    raise AssertionError(f"the process ended after {lines}")


def _listening(processes: list[psutil.Process]) -> list[tuple[str, str]]:
    """Each address that the processes listen on, with the process's name."""
    return [
        (process.name(), connection.laddr.ip)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def _is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.mark.long
def test_a_graph_says_what_is_ready_listens_on_the_loopback_and_stops(config: Path) -> None:
    with running(config) as process:
        lines = until(process, "Ctrl-C stops the graph.")
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = _listening(processes)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_WAIT_S) == 0
        assert psutil.wait_procs(processes, 10)[1] == []
    assert len(listening) > len(_DEPLOYMENTS)
    assert [one for one in listening if not _is_loopback(one[1])] == []
    beginning = next(index for index, line in enumerate(lines) if line.startswith("Starting Ray"))
    assert "Model 'tiny-sdxl': " in "\n".join(lines[:beginning])
    first, *rest = lines[beginning:]
    file = re.fullmatch(r"Starting Ray on this machine\. What it prints is in (.+)", first)
    assert file is not None
    assert "ServeController" in Path(file[1]).read_text()
    steps = [line.partition(" s  ")[2] for line in rest[: rest.index("")]]
    assert steps[0] == "Ray has started"
    assert {step.partition(" is ready (")[0] for step in steps[1:-1]} == _DEPLOYMENTS
    assert steps[-1] == "ready"
    port = yaml.safe_load(config.read_text())["http_options"]["port"]
    assert f"Atelier is ready at http://127.0.0.1:{port} " in "\n".join(rest)


def test_a_graph_that_cannot_be_built_ends_with_the_reason(config: Path) -> None:
    config.write_text(config.read_text().replace("tiny-sdxl", "other"))
    with running(config) as process:
        output, _ = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 1
    assert output.startswith("Unknown model 'other'. Known models: tiny-sdxl")
    assert len(output.splitlines()) == 1
