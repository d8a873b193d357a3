"""Benchmark of scaling: a graph on three nodes of one GPU each grows under load, changes, loses a node, and shrinks.

`python -m benchmarks.elastic` runs `configs/sdxl-80gb.yaml` with the zoo's models on the CPU; the GPUs are counted,
but not there. It prints whether the fractions of the replicas are reserved as the config says, how long it takes
until there are three Denoisers under load and one after it, and how requests are answered meanwhile, while the config
changes so that every replica is replaced, and while a node dies. Clients send a request again if its answer says so.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import ray
from ray._private.state import available_resources_per_node

from benchmarks.mixed_requests import Answers, requests
from benchmarks.results import record
from benchmarks.three_nodes import DEPLOYMENTS, PORT, Clients, deploy_and_wait, shared_stores, three_nodes, zoo_config
from tests.integration.replicas import Replica, replicas_of

_MAX_WAIT_S = 240
_NUM_DENOISERS = 3
_SCALING = {
    "min_replicas": 1,
    "max_replicas": _NUM_DENOISERS,
    "policy": {
        "policy_function": "deployments.scaling:ByWork",
        "policy_kwargs": {"target_s": 0.5, "half_life_s": 5},
    },
    "upscale_delay_s": 2,
    "downscale_delay_s": 10,
    "look_back_period_s": 3,
}


def main() -> None:
    environment = {f"RAY_SERVE_{name}_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1" for name in ("REPLICA", "HANDLE")}
    with tempfile.TemporaryDirectory(prefix="ray") as folder, shared_stores(Path(folder)) as stores:
        config = _config({**stores, **environment})
        with three_nodes(Path(folder), config, num_gpus=1, **environment) as lose_node:
            numbers = asyncio.run(_measure(config, lose_node))
    record("elastic", numbers)


def _config(environment: dict[str, str]) -> dict[str, Any]:
    config = zoo_config("sdxl-80gb.yaml", environment)
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] == "Denoiser":
            deployment["autoscaling_config"] = _SCALING
        elif deployment["name"] != "Router":
            deployment.pop("autoscaling_config", None)
            deployment["num_replicas"] = 1
    return config


async def _measure(config: dict[str, Any], lose_node: Callable[[], list[Replica]]) -> dict[str, float | int]:
    numbers: dict[str, float | int] = {"nodes whose fractions are as configured": _nodes_as_configured(config)}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}") as client:
        answers = Answers(client)
        for request in requests():
            await answers.expect(request)
        clients = Clients(answers)
        numbers["three Denoisers after, s"] = await _until(_NUM_DENOISERS)
        await clients.stop()
        numbers |= {f"growing: {how}": number for how, number in clients.counts.items()}
        clients = Clients(answers)
        config["applications"][0]["args"]["text_encoder"] = {"max_cached_prompts": 1999}
        start_s = time.monotonic()
        await asyncio.to_thread(deploy_and_wait, config)
        numbers["every replica replaced after, s"] = round(time.monotonic() - start_s, 1)
        await clients.stop()
        numbers |= {f"changing: {how}": number for how, number in clients.counts.items()}
        clients = Clients(answers)
        await _until(_NUM_DENOISERS)
        await asyncio.to_thread(lose_node)
        await asyncio.sleep(30)
        await clients.stop()
        numbers |= {f"node lost: {how}": number for how, number in clients.counts.items()}
        numbers["one Denoiser again after, s"] = await _until(1)
    return numbers


async def _until(num_denoisers: int) -> float:
    """Wait for so many Denoisers. Returns the seconds it took."""
    start_s = time.monotonic()
    while len(await asyncio.to_thread(replicas_of, "Denoiser")) != num_denoisers:
        if time.monotonic() - start_s > _MAX_WAIT_S:
            raise TimeoutError(f"not {num_denoisers} Denoisers within {_MAX_WAIT_S} s")
        await asyncio.sleep(0.5)
    return round(time.monotonic() - start_s, 1)


def _nodes_as_configured(config: dict[str, Any]) -> int:
    """Return the number of nodes on which Ray has reserved the sum of the replicas' fractions of a GPU."""
    fractions = {
        deployment["name"]: deployment["ray_actor_options"].get("num_gpus", 0)
        for deployment in config["applications"][0]["deployments"]
    }
    expected: dict[str, float] = defaultdict(float)
    for name in DEPLOYMENTS:
        for replica in replicas_of(name):
            expected[replica.node_id] += fractions[name]
    available = available_resources_per_node()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return sum(abs(1 - available[node].get("GPU", 0) - expected[node]) < 1e-6 for node in nodes)


if __name__ == "__main__":
    main()
