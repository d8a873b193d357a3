"""Benchmark of losses: replicas, a Router and a node are lost while 16 clients send mixed requests.

`python -m benchmarks.chaos` runs `configs/high-availability.yaml`, with the zoo's models on the CPU, on three nodes
on this machine: two replicas of every deployment, each on a node of its own, and an S3 server. Four losses follow
each other: one replica of every stage is killed, one of every stage is stopped without ending it, one of two Routers
is killed, a node is killed. For each it prints how the requests were answered, and how long it took until two
replicas of every deployment ran again. Requests are not sent again. An answer is right if its images are those that
the same request got before: to the bit if it asked for `exact`, otherwise above 60 dB.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.schema import ServeDeploySchema

from benchmarks.mixed_requests import DEADLINE_S, Answers, requests
from benchmarks.results import record
from deployments.deploy import deploy, status
from deployments.environment import ENVIRONMENT
from deployments.progress import failure, is_running
from tests.integration.replicas import STAGES, Replica, freeze, kill, replicas_of
from tests.s3 import s3_server

_ROOT = Path(__file__).parents[1]
_PORT = 8766
_NUM_CLIENTS = 16
_DEPLOYMENTS = (*STAGES, "Router")
#: Seconds of requests before a loss, and after the graph is whole again.
_BEFORE_S, _AFTER_S = 5, 5
_MAX_RECOVERY_S = 240


def main() -> None:
    record("chaos", {"clients": _NUM_CLIENTS, "deadline_s": DEADLINE_S, **measured()})


def measured() -> dict[str, float | int]:
    """Run the graph and lose its parts. Returns the numbers of all losses, each named by its loss."""
    os.environ |= {**ENVIRONMENT, "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="ray") as folder, s3_server(Path(folder)) as s3:
        s3.make_bucket("images")
        with _running(Path(folder), {**s3.environment, "ATELIER_BLOBS_URL": "s3://images"}) as lose_node:
            return asyncio.run(_measure(lose_node))


async def _measure(lose_node: Callable[[], list[Replica]]) -> dict[str, float | int]:
    losses: dict[str, Callable[[], list[Replica]]] = {
        "dead_stages": lambda: [kill(stage) for stage in STAGES],
        "frozen_stages": lambda: [freeze(stage) for stage in STAGES],
        # The proxy, which is on this process's node, prefers the Router there.
        "dead_router": lambda: [kill("Router", ray.get_runtime_context().get_node_id())],
        "dead_node": lose_node,
    }
    numbers: dict[str, float | int] = {}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{_PORT}") as client:
        answers = Answers(client)
        for request in requests():
            await answers.expect(request)
        for name, lose in losses.items():
            counts, slowest_s, recovery_s = await _answers_during(lose, answers)
            right = counts["right"] / sum(counts.values())
            numbers |= {f"{name}_{how.replace(' ', '_')}": number for how, number in sorted(counts.items())}
            numbers |= {
                f"{name}_share_right": round(right, 4),
                f"{name}_slowest_s": round(slowest_s, 1),
                f"{name}_recovery_s": round(recovery_s, 1),
            }
            print(name, dict(counts), f"{right:.2%} right, slowest {slowest_s:.1f} s, whole after {recovery_s:.1f} s")
    return numbers


async def _answers_during(lose: Callable[[], list[Replica]], answers: Answers) -> tuple[Counter[str], float, float]:
    """Return how requests were answered during a loss, the slowest answer, and the time until the graph was whole."""
    counts: Counter[str] = Counter()
    slowest_s, is_over = 0.0, False

    async def client(index: int) -> None:
        nonlocal slowest_s
        mixed = requests()
        while not is_over:
            start_s = time.monotonic()
            counts[await answers.judge(mixed[index % len(mixed)])] += 1
            slowest_s = max(slowest_s, time.monotonic() - start_s)
            index += 5

    clients = [asyncio.create_task(client(index)) for index in range(_NUM_CLIENTS)]
    await asyncio.sleep(_BEFORE_S)
    lost = await asyncio.to_thread(lose)
    recovery_s = await asyncio.to_thread(_until_whole, lost)
    await asyncio.sleep(_AFTER_S)
    is_over = True
    await asyncio.gather(*clients)
    return counts, slowest_s, recovery_s


def _until_whole(lost: Sequence[Replica]) -> float:
    """Wait until two replicas of every deployment run that were not lost. Returns the seconds it took."""
    start_s = time.monotonic()
    gone = {replica.replica_id for replica in lost}
    while True:
        running = {name: [one for one in replicas_of(name) if one.replica_id not in gone] for name in _DEPLOYMENTS}
        if all(len(replicas) == 2 for replicas in running.values()):
            return time.monotonic() - start_s
        if time.monotonic() - start_s > _MAX_RECOVERY_S:
            raise TimeoutError(f"not whole after {_MAX_RECOVERY_S} s: {running}")
        time.sleep(0.5)


@contextmanager
def _running(folder: Path, environment: dict[str, str]) -> Iterator[Callable[[], list[Replica]]]:
    """Run the graph on three nodes; yields a function that kills one of them, not the one with the proxy."""
    # `Cluster` writes its address into a folder `ray`, which it expects to be there.
    (folder / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = str(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    victim, _ = cluster.add_node(num_cpus=4), cluster.add_node(num_cpus=4)
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)

    def lose_node() -> list[Replica]:
        lost = [one for name in _DEPLOYMENTS for one in replicas_of(name) if one.node_id == victim.node_id]
        cluster.remove_node(victim, allow_graceful=False)
        return lost

    try:
        deploy(ServeDeploySchema.model_validate(_config(environment)))
        while not is_running(now := status()):
            if reason := failure(now):
                raise RuntimeError(reason)
            time.sleep(1)
        yield lose_node
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _config(environment: dict[str, str]) -> dict[str, Any]:
    """The config for high availability, with the zoo's models; twelve replicas share the cores of this machine."""
    config: dict[str, Any] = yaml.safe_load((_ROOT / "configs" / "high-availability.yaml").read_text())
    [application] = config["applications"]
    application["args"] = {name: {"num_threads": 1} for name in ("annotator", "denoiser", "upscaler")}
    application["runtime_env"]["env_vars"] = environment
    for deployment in application["deployments"]:
        deployment["ray_actor_options"] = {"num_cpus": 0.1}
    config["proxy_location"] = "HeadOnly"
    config["http_options"] |= {"host": "127.0.0.1", "port": _PORT}
    return config


if __name__ == "__main__":
    main()
