"""A replica dies: its requests end with an error that clients may retry, and Serve replaces the replica."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest
import ray
from ray.util import list_named_actors

from tests.integration.steps import Steps

_RECOVERY_S = 90


def _kill_replicas_of(deployment: str) -> None:
    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    replicas = [name for name in names if f"#{deployment}#" in name]
    assert replicas, f"no replica of {deployment} among {names}"
    for name in replicas:
        ray.kill(ray.get_actor(name, namespace="serve"))


@pytest.mark.slow
async def test_a_graph_with_a_lost_annotator_is_not_ready_until_it_is_replaced(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        assert (await client.get("/ready")).status_code == 200
        _kill_replicas_of("Annotator")
        deadline_s = time.monotonic() + _RECOVERY_S
        for status in (503, 200):
            while (await client.get("/ready")).status_code != status:
                assert time.monotonic() < deadline_s, f"no {status} within {_RECOVERY_S} s"
                await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_requests_of_a_lost_denoiser_end_with_503_and_the_denoiser_is_replaced(
    address: str, steps: Steps
) -> None:
    long = {"prompt": "a red circle", "num_inference_steps": 150, "size": "160x160"}
    before = await steps.done()
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        generation = asyncio.create_task(client.post("/v1/images/generations", json=long))
        await steps.wait_for(before + 5)
        _kill_replicas_of("Denoiser")
        lost = await generation
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "replica_lost")
        assert "x-should-retry" not in lost.headers
        deadline_s = time.monotonic() + _RECOVERY_S
        while (await client.post("/v1/images/generations", json={"prompt": "a red circle"})).status_code != 200:
            assert time.monotonic() < deadline_s, f"not replaced within {_RECOVERY_S} s"
            await asyncio.sleep(1)
