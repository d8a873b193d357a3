"""Replicas die or freeze during requests: the requests are repeated, or can be, and Serve replaces the replicas."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import httpx2
import numpy as np
import psutil
import pytest
from ray import serve

from tests.integration.replicas import freeze, kill, until_replaced
from tests.integration.steps import Steps
from tests.pictures import encoded, noise, pixels_of

_GENERATIONS = "/v1/images/generations"
#: Serve notices a frozen replica after three health checks of 1.5 s, and then starts another one.
_REPLACED_WITHIN_S = 20
_EXACT_STEPS = 90
_EXACT = {
    "prompt": "a red circle",
    "seed": 3,
    "num_inference_steps": _EXACT_STEPS,
    "size": "160x160",
    "reproducibility": "exact",
}


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=address, timeout=120) as client:
        yield client


def _file(answer: httpx2.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


async def _counter(http: httpx2.AsyncClient, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


@pytest.mark.slow
async def test_a_request_survives_the_loss_of_its_denoiser_with_the_same_bits(
    http: httpx2.AsyncClient, steps: Steps
) -> None:
    expected = _file(await http.post(_GENERATIONS, json=_EXACT))
    repeated, before = await _counter(http, "atelier_repeated_calls_total"), await steps.until_idle()
    generation = asyncio.create_task(http.post(_GENERATIONS, json=_EXACT))
    await steps.wait_for(before + 40)
    lost = kill("Denoiser")
    assert _file(await generation) == expected
    assert await steps.until_idle() < _EXACT_STEPS, "it did not go on from a snapshot"
    assert await _counter(http, "atelier_repeated_calls_total") == repeated + 1
    await until_replaced(lost, "Denoiser")


@pytest.mark.slow
@pytest.mark.parametrize("lose", [kill, freeze], ids=["dead", "frozen"])
async def test_a_call_of_a_lost_stage_goes_to_its_replacement(http: httpx2.AsyncClient, lose: object) -> None:
    files = {"image": encoded(noise(64, 64))}
    expected = (await http.post("/v1/images/annotate", files=files, data={"kind": "canny"})).json()
    lost = (kill if lose is kill else freeze)("Annotator")
    drawing = asyncio.create_task(http.post("/v1/images/annotate", files=files, data={"kind": "canny"}))
    took_s = await until_replaced(lost, "Annotator")
    assert took_s < _REPLACED_WITHIN_S
    answer = await drawing
    assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.slow
async def test_a_graph_with_a_lost_annotator_is_not_ready_until_it_is_replaced(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/ready")).status_code == 200
    kill("Annotator")
    async with asyncio.timeout(_REPLACED_WITHIN_S):
        for status in (503, 200):
            while (await http.get("/ready")).status_code != status:
                await asyncio.sleep(0.2)


async def _streamed(http: httpx2.AsyncClient, body: dict[str, object], has_begun: asyncio.Event) -> str:
    """Return the text of a stream; the event is set when its first part has come."""
    text = ""
    async with http.stream("POST", _GENERATIONS, json=body) as response:
        async for part in response.aiter_text():
            text += part
            has_begun.set()
    return text


@pytest.mark.slow
async def test_requests_of_a_lost_router_can_be_sent_again(http: httpx2.AsyncClient, steps: Steps) -> None:
    long = {**_EXACT, "num_inference_steps": 150, "deadline_s": 60}
    before = await steps.until_idle()
    generation = asyncio.create_task(http.post(_GENERATIONS, json=long))
    has_begun = asyncio.Event()
    stream = asyncio.create_task(_streamed(http, {**long, "stream": True, "progress": True}, has_begun))
    await steps.wait_for(before + 3)
    await asyncio.wait_for(has_begun.wait(), _REPLACED_WITHIN_S)
    lost = kill("Router")
    answer = await generation
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replica_lost")
    assert "retry-after" in answer.headers
    assert "x-should-retry" not in answer.headers
    name, data = (await stream).strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "replica_lost"
    await until_replaced(lost, "Router")
    async with asyncio.timeout(_REPLACED_WITHIN_S):
        while (await http.get("/ready")).status_code != 200:
            await asyncio.sleep(0.2)
    image = pixels_of(_file(await http.post(_GENERATIONS, json={"prompt": "a red circle", "seed": 1})))
    assert np.asarray(image).std() > 10


@pytest.mark.slow
async def test_a_frozen_router_holds_up_no_replica_that_it_has_called(http: httpx2.AsyncClient, steps: Steps) -> None:
    denoiser = serve.get_deployment_handle("Denoiser", "atelier")
    before = await steps.until_idle()
    generation = asyncio.create_task(http.post(_GENERATIONS, json={**_EXACT, "num_inference_steps": 30}))
    await steps.wait_for(before + 3)
    frozen = freeze("Router")
    while " 0.0" not in _line("atelier_denoiser_active_requests{", await denoiser.metrics_text.remote()):
        await asyncio.sleep(0.1)
    await denoiser.metrics_text.remote()
    assert psutil.pid_exists(frozen.pid), "the Denoiser answered only when the Router was gone"
    assert await until_replaced(frozen, "Router") < _REPLACED_WITHIN_S
    assert (await generation).status_code == 503


def _line(start: str, text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))
