"""`serve deploy` of a changed config onto a graph in use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx2
import psutil
import pytest

from tests.integration.conftest import Graph
from tests.integration.replicas import replicas_of
from tests.integration.steps import Steps

_GENERATIONS = "/v1/images/generations"
_NAMES = ("Router", "TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler")
_NUM_STREAMS = 8


@pytest.fixture
def changed(deployed: Graph) -> Iterator[Graph]:
    """The graph, whose config a test may change."""
    args, user_configs = dict(deployed.args), dict(deployed.user_configs)
    yield deployed
    deployed.args, deployed.user_configs, deployed.num_denoisers = args, user_configs, 1
    deployed.deploy()


def _pids() -> dict[str, list[int]]:
    return {name: sorted(replica.pid for replica in replicas_of(name)) for name in _NAMES}


@pytest.mark.slow
async def test_limits_change_in_the_running_replicas(changed: Graph) -> None:
    small, large = (json.dumps({"prompt": "x", "negative_prompt": "y" * size}) for size in (1_000, 50_000))
    headers = {"content-type": "application/json"}
    before = _pids()
    changed.user_configs = {
        "Router": {"max_pixel_steps": 128 * 128 * 10, "max_body_bytes": 10_000},
        **{name: {"stall_s": 60} for name in _NAMES[1:]},
    }
    await asyncio.to_thread(changed.deploy)
    assert _pids() == before
    async with httpx2.AsyncClient(base_url=changed.address, timeout=60) as client:
        large_body = await client.post(_GENERATIONS, content=large, headers=headers)
        much_work = await client.post(_GENERATIONS, json={"prompt": "x", "num_inference_steps": 11})
        allowed = await client.post(_GENERATIONS, json={"prompt": "x", "num_inference_steps": 10})
        assert (await client.post(_GENERATIONS, content=small, headers=headers)).status_code == 400
    assert (large_body.status_code, large_body.json()["error"]["code"]) == (413, "body_too_large")
    assert (much_work.status_code, much_work.json()["error"]["code"]) == (400, "too_much_work")
    assert allowed.status_code == 200


@pytest.mark.slow
async def test_a_smaller_batch_is_kept_by_the_running_engine(changed: Graph, steps: Steps) -> None:
    """Three requests of ten rows share a batch at first, and two at most afterwards."""
    body = {"prompt": "x", "n": 5, "size": "128x128", "num_inference_steps": 20}

    async def wide_steps() -> int:
        async with httpx2.AsyncClient(base_url=changed.address, timeout=120) as client:
            before = await steps.wider_than(20)
            answers = await asyncio.gather(*(client.post(_GENERATIONS, json=body) for _ in range(3)))
            assert {answer.status_code for answer in answers} == {200}
            return await steps.wider_than(20) - before

    assert await wide_steps() > 0
    changed.user_configs = {**changed.user_configs, "Denoiser": {"max_rows": 20}}
    await asyncio.to_thread(changed.deploy)
    assert await wide_steps() == 0


@pytest.mark.slow
async def test_a_mistake_in_a_limit_leaves_the_graph_as_it_is(changed: Graph) -> None:
    before = _pids()
    changed.user_configs = {"Router": {"max_pixel_steps": 0, "max_body_bytes": 10_000}, "Denoiser": {"max_rows": "x"}}
    await asyncio.to_thread(changed.deploy)
    assert _pids() == before
    async with httpx2.AsyncClient(base_url=changed.address, timeout=60) as client:
        body = json.dumps({"prompt": "x", "num_inference_steps": 4, "user": "y" * 20_000})
        answer = await client.post(_GENERATIONS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code != 413


async def _stream(address: str) -> list[str]:
    """The types of the events of a long generation, without its progress."""
    body = {"prompt": "a red circle", "num_inference_steps": 100, "size": "128x128", "stream": True, "progress": True}
    async with (
        httpx2.AsyncClient(base_url=address, timeout=300) as client,
        client.stream("POST", _GENERATIONS, json=body) as answer,
    ):
        assert answer.status_code == 200
        names = [line.removeprefix("event: ") async for line in answer.aiter_lines() if line.startswith("event: ")]
    return [name for name in names if not name.endswith(".progress")]


@pytest.mark.long
async def test_a_change_of_the_models_loses_no_stream_and_no_request(changed: Graph, steps: Steps) -> None:
    # On a slow machine eight streams wait longer than the default allows.
    changed.user_configs = {"Router": {"max_wait_s": 600}}
    await asyncio.to_thread(changed.deploy)
    before, num_steps = _pids(), await steps.done()
    streams = [asyncio.create_task(_stream(changed.address)) for _ in range(_NUM_STREAMS)]
    await steps.wait_for(num_steps + 5)
    changed.args = {"upscalers": []}
    deploying = asyncio.create_task(asyncio.to_thread(changed.deploy))
    statuses = []
    async with httpx2.AsyncClient(base_url=changed.address, timeout=120) as client:
        while not deploying.done():
            answer = await client.post(_GENERATIONS, json={"prompt": "a blue ring", "num_inference_steps": 4})
            statuses.append(answer.status_code)
        await deploying
        assert (await client.get("/")).json()["upscalers"] == []
    assert await asyncio.gather(*streams) == [["image_generation.completed"]] * _NUM_STREAMS
    assert set(statuses) == {200}
    after = _pids()
    assert all(not set(before[name]) & set(after[name]) for name in _NAMES)


@pytest.mark.long
async def test_a_denoiser_that_is_taken_away_hands_its_requests_on_with_the_same_bits(
    changed: Graph, steps: Steps
) -> None:
    """It ends while its requests are still in progress elsewhere."""
    changed.user_configs, changed.num_denoisers = {"Router": {"max_wait_s": 600}}, 2
    await asyncio.to_thread(changed.deploy)
    exact = {"prompt": "a red circle", "size": "128x128", "num_inference_steps": 100, "reproducibility": "exact"}
    async with httpx2.AsyncClient(base_url=changed.address, timeout=300) as client:

        async def images() -> list[str]:
            bodies = [{**exact, "seed": seed} for seed in range(_NUM_STREAMS)]
            answers = await asyncio.gather(*(client.post(_GENERATIONS, json=body) for body in bodies))
            return [answer.json()["data"][0]["b64_json"] for answer in answers]

        expected, num_steps = await images(), await steps.done()
        generations = asyncio.create_task(images())
        await steps.wait_for(num_steps + 10)
        before = replicas_of("Denoiser")
        changed.num_denoisers = 1
        await asyncio.to_thread(changed.deploy)
        [left] = {one.pid for one in before} - {one.pid for one in replicas_of("Denoiser")}
        while psutil.pid_exists(left):
            await asyncio.sleep(0.1)
        assert not generations.done()
        assert await generations == expected
