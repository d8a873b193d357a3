"""docs/cluster.md on plain machines: Ray is started and the wheel deployed by the commands of the page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.wheel import build_wheel, pip

_ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_WAIT_S = 90

#: The last step on the page. The second machine is left out, and the config is one for this machine.
_STEP = (
    (_ROOT / "docs" / "cluster.md")
    .read_text()
    .partition("**Start Ray and deploy.**")[2]
    .partition("## On Kubernetes")[0]
)
_EXPORT, _HEAD, _, _DEPLOY, _STATUS = (
    shlex.split(line, comments=True)
    for line in re.findall(r"```console\n(.*?) *```", _STEP, re.DOTALL)[0].splitlines()
)

_SECOND_APP = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Postcards:
    async def __call__(self, request):
        atelier = serve.get_app_handle("atelier")
        answer = await atelier.generate.remote({"prompt": "a green star, black background", "seed": 3})
        from starlette.responses import Response
        return Response(answer["images"][0]["image"], media_type=answer["images"][0]["media_type"])

app = Postcards.bind()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder outside the repository; its `site` holds the installed wheel without the wheel's dependencies."""
    wheel = build_wheel(tmp_path)
    pip(["install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)])
    (tmp_path / "postcards.py").write_text(_SECOND_APP)
    return tmp_path


def _run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(_BIN / command[0]), *command[1:]],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def cluster(installed: Path) -> Iterator[dict[str, str]]:
    """The environment variables for a separate Ray head node.

    The node's temporary folder has a short name, because paths of Unix sockets are limited in length.
    """
    ray_folder = Path(tempfile.mkdtemp(prefix="ray"))
    gcs, dashboard, client = free_port(), free_port(), free_port()
    environment = {
        "PYTHONPATH": f"{installed / 'site'}{os.pathsep}{installed}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        **dict([_EXPORT[1].split("=")]),
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    options = (
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        f"--temp-dir={ray_folder}",
    )
    head = subprocess.Popen(
        [str(_BIN / _HEAD[0]), *_HEAD[1:], "--block", "--dashboard-host=127.0.0.1", *options],
        cwd=installed,
        env={**{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield environment
    head.send_signal(signal.SIGTERM)
    head.wait(_WAIT_S)
    shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.mark.long
def test_the_wheel_is_deployed_from_another_directory(installed: Path, cluster: dict[str, str]) -> None:
    port = free_port()
    config = yaml.safe_load((_ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"].append({"name": "postcards", "import_path": "postcards:app", "route_prefix": "/postcard"})
    (installed / "config.yaml").write_text(yaml.safe_dump(config))
    _until(lambda: bool(_run(_STATUS, installed, **cluster)))
    _run([*_DEPLOY[:2], "config.yaml"], installed, **cluster)

    def statuses() -> dict[str, str]:
        status = yaml.safe_load(_run(_STATUS, installed, **cluster))
        return {
            f"{app}.{name}": deployment["status"]
            for app, application in status["applications"].items()
            for name, deployment in application["deployments"].items()
        }

    _until(lambda: len(statuses()) == 7 and set(statuses().values()) == {"HEALTHY"})
    picture = subprocess.run(
        ["curl", "-sf", f"http://127.0.0.1:{port}/postcard"], check=True, capture_output=True, timeout=60
    ).stdout
    assert picture.startswith(b"\x89PNG")


def _until(is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while True:
        try:
            if is_true():
                return
        except AssertionError:
            if time.monotonic() > deadline_s:
                raise
        assert time.monotonic() < deadline_s, f"not within {_WAIT_S} s"
        # Each look starts a program that takes seconds of a CPU, which the replicas need.
        time.sleep(5)
