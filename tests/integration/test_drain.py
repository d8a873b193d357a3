"""The preStop hook of deploy/kubernetes, on a cluster of two workers on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_WAIT_S = 120

#: A request waits for a file on the worker that is drained; requests after the drain move to the other worker.
_SCRIPT = """
import asyncio, json, subprocess, sys, time
from pathlib import Path
import ray
from ray import serve
from ray.cluster_utils import Cluster

drain, end = json.loads(sys.argv[1]), Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1, resources={"worker": 1})
ray.init(address=cluster.address, log_to_driver=False)

@serve.deployment(ray_actor_options={"num_cpus": 0, "resources": {"worker": 1}}, health_check_period_s=1)
class Replica:
    async def __call__(self, wait_for):
        while wait_for is not None and not Path(wait_for).exists():
            await asyncio.sleep(0.1)
        return ray.get_runtime_context().get_node_id()

replica = serve.run(Replica.bind(), name="drained", route_prefix=None)
first = replica.remote(None).result()
waiting = replica.remote(str(end))
cluster.add_node(num_cpus=1, resources={"worker": 1})
subprocess.run([*drain, "--address", cluster.address, "--node-id", first], check=True)
deadline_s = time.monotonic() + 60
while replica.remote(None).result() == first and time.monotonic() < deadline_s:
    time.sleep(0.1)
seen = {"moved": replica.remote(None).result() != first}
pattern = subprocess.run(["pgrep", "-f", "[r]ay::ServeReplica:drained:"], capture_output=True, text=True).stdout
seen["replicas"] = len(pattern.split())
end.touch()
seen["finished"] = waiting.result() == first
print(json.dumps(seen))
serve.shutdown()
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for a Ray; its name is short, because paths of Unix sockets are limited in length."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    (folder / "ray").mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _drain_command() -> list[str]:
    """The words of the hook that drain the node; the rest waits for the replicas to end."""
    documents = yaml.safe_load_all((_ROOT / "deploy" / "kubernetes" / "rayservice.yaml").read_text())
    [service] = [one for one in documents if one["kind"] == "RayService"]
    [worker] = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    [container] = worker["template"]["spec"]["containers"]
    *_, hook = container["lifecycle"]["preStop"]["exec"]["command"]
    assert "pgrep -f '[r]ay::ServeReplica'" in hook
    printed = subprocess.run(
        ["bash", "-c", f"ray() {{ printf '%s\\n' ray \"$@\"; }}; {hook.partition(';')[0]}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return printed.stdout.splitlines()


@pytest.mark.long
def test_a_drained_worker_finishes_its_requests_while_new_ones_go_elsewhere(ray_folder: Path, tmp_path: Path) -> None:
    program, *words = _drain_command()
    drain = [str(Path(sys.executable).parent / program), *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, json.dumps(drain), str(tmp_path / "end")],
        env={**environment, "RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = next(json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{"))
    assert seen == {"moved": True, "replicas": 2, "finished": True}
