"""When a replica of the graph dies, its requests fail with a retryable error and Serve replaces it."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest
import ray
from ray.util import list_named_actors

_RECOVERY_S = 90


def _kill_replicas_of(deployment: str) -> None:
    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    replicas = [name for name in names if f"#{deployment}#" in name]
    assert replicas, f"no replica of {deployment} among {names}"
    for name in replicas:
        ray.kill(ray.get_actor(name, namespace="serve"))


@pytest.mark.slow
async def test_lost_denoiser_returns_503_and_is_replaced(address: str) -> None:
    long = {"prompt": "a red circle", "num_inference_steps": 150, "size": "160x160"}
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        generation = asyncio.create_task(client.post("/v1/images/generations", json=long))
        await asyncio.sleep(1)
        _kill_replicas_of("Denoiser")
        lost = await generation
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "replica_lost")
        assert "x-should-retry" not in lost.headers
        deadline_s = time.monotonic() + _RECOVERY_S
        while (await client.post("/v1/images/generations", json={"prompt": "a red circle"})).status_code != 200:
            assert time.monotonic() < deadline_s, f"not replaced within {_RECOVERY_S} s"
            await asyncio.sleep(1)
