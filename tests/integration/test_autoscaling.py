"""cluster.yaml on this machine: the nodes that AWS would start are further Rays here, and no container is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from tests.integration.test_deploy import free_port

_ROOT = Path(__file__).parents[2]
_WAIT_S = 90
#: Parts that concern SSH or the container; the provider is replaced.
_LEFT_OUT = (
    "auth",
    "docker",
    "file_mounts",
    "initialization_commands",
    "head_setup_commands",
    "worker_setup_commands",
)

_PENDING_ACTOR = """
import json, ray
ray.init(log_to_driver=False)

@ray.remote(num_gpus=0.6, num_cpus=2)
class Denoiser:
    def node(self):
        return ray.get_runtime_context().get_node_id()

before = [node["Resources"].get("GPU", 0) for node in ray.nodes()]
node_id = ray.get(Denoiser.remote().node.remote())
[node] = [node for node in ray.nodes() if node["NodeID"] == node_id]
print(json.dumps({"before": before, "node": {name: node["Resources"][name] for name in ("CPU", "GPU")}}))
"""


def _on_this_machine(gcs_address: str) -> dict[str, Any]:
    """cluster.yaml as `ray up` hands it to the head, with nodes of Ray's fake provider."""
    config: dict[str, Any] = prepare_config(yaml.safe_load((_ROOT / "cluster.yaml").read_text()))
    left_out = {name: type(config[name])() for name in _LEFT_OUT}
    return {**config, **left_out, "provider": {"type": "fake_multinode", "gcs_address": gcs_address}}


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a client of the head, which is started with its autoscaler."""
    ray_folder, gcs = Path(tempfile.mkdtemp(prefix="ray")), free_port()
    address = f"127.0.0.1:{gcs}"
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(_on_this_machine(address)))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    options = (
        f"--port={gcs}",
        "--num-cpus=1",
        "--num-gpus=0",
        "--include-dashboard=false",
        f"--ray-client-server-port={free_port()}",
        f"--temp-dir={ray_folder}",
        f"--autoscaling-config={tmp_path / 'cluster.yaml'}",
    )
    ray = Path(sys.executable).parent / "ray"
    process = subprocess.Popen(
        [ray, "start", "--head", "--block", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield {**environment, "RAY_ADDRESS": address}
    process.terminate()
    process.wait(_WAIT_S)
    # The fake provider leaves the workers' processes behind.
    for left in _processes_of(ray_folder):
        left.kill()
    shutil.rmtree(ray_folder, ignore_errors=True)


def _processes_of(ray_folder: Path) -> list[psutil.Process]:
    """The processes of the Rays in a folder; its name is in their arguments."""
    return [one for one in psutil.process_iter() if any(str(ray_folder) in part for part in _arguments(one))]


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_a_worker_is_started_for_a_replica_that_needs_a_gpu(head: dict[str, str]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while True:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PENDING_ACTOR],
            env=head,
            capture_output=True,
            text=True,
            timeout=_WAIT_S,
            check=False,
        )
        if ran.returncode == 0 or time.monotonic() > deadline_s:
            break
    assert ran.returncode == 0, ran.stderr
    seen = yaml.safe_load(ran.stdout.splitlines()[-1])
    assert seen == {"before": [0], "node": {"CPU": 16, "GPU": 1}}
