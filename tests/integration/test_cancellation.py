"""A request leaves the engine before the next step after a disconnect, an exception of its caller or its deadline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from ray import serve

from atelier.core.conditioning import Conditioning, Text
from atelier.core.denoising import DenoiseRequest, RequestId, StepEvent
from atelier.core.sampling import Sampling
from deployments.stages import HandleStages
from tests.integration.steps import Steps

_LONG = {"prompt": "a red circle", "num_inference_steps": 150, "size": "160x160"}


@pytest.fixture
def stages(address: str) -> HandleStages:
    assert address
    return HandleStages(
        *(
            serve.get_deployment_handle(name, "atelier")
            for name in ("TextEncoder", "ControlNet", "Denoiser", "Autoencoder", "Upscaler")
        )
    )


async def _settled(steps: Steps) -> int:
    """Number of steps of the engine, once it no longer grows."""
    before, now = -1, await steps.done()
    while now != before:
        await asyncio.sleep(0.5)
        before, now = now, await steps.done()
    return now


async def _request(stages: HandleStages) -> DenoiseRequest:
    encoded = await stages.encode_texts("tiny-sdxl", [Text("a red circle", "a red circle")], "fast")
    return DenoiseRequest(
        request_id=RequestId("req_test"),
        model="tiny-sdxl",
        height=160,
        width=160,
        seeds=(1,),
        sampling=Sampling(num_inference_steps=150),
        guidance_scale=5.0,
        conditioning=Conditioning(positive=encoded.embeds[0], negative=None),
        wants_steps=True,
    )


async def test_disconnected_client_stops_the_work(address: str, steps: Steps) -> None:
    before = await _settled(steps)
    async with httpx2.AsyncClient(base_url=address) as client:
        with pytest.raises(httpx2.TimeoutException):
            await client.post("/v1/images/generations", json=_LONG, timeout=1.0)
    done = await _settled(steps) - before
    assert 0 < done < 150


async def test_deadline_stops_the_work(address: str, steps: Steps) -> None:
    before = await _settled(steps)
    async with httpx2.AsyncClient(base_url=address) as client:
        response = await client.post("/v1/images/generations", json={**_LONG, "deadline_s": 0.7}, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert 0 < await _settled(steps) - before < 150


async def test_cancelled_stream_frees_rows(address: str, steps: Steps) -> None:
    """A step takes 0.1 s. Steps that start before the cancellation reaches the engine run to their end."""
    before = await _settled(steps)
    body = {**_LONG, "size": "256x256", "n": 2, "stream": True, "partial_images": 3, "progress": True}
    async with (
        httpx2.AsyncClient(base_url=address) as client,
        client.stream("POST", "/v1/images/generations", json=body, timeout=30) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data:") and json.loads(line[5:]).get("step") == 5:
                break
        seen = await steps.done()
    assert seen - before >= 5
    while await steps.active():
        await asyncio.sleep(0.02)
    assert await steps.done() - seen <= 3


async def _third_step(events: AsyncIterator[object]) -> StepEvent:
    async for event in events:
        if isinstance(event, StepEvent) and event.step == 3:
            return event
    raise AssertionError("the stream ended before its third step")


async def test_closed_handle_stream_stops_before_the_next_step(stages: HandleStages, steps: Steps) -> None:
    before = await _settled(steps)
    async with stages.denoise(await _request(stages)) as events:
        assert await _third_step(events) == StepEvent(3, 150)
        seen = await steps.done() - before
    assert await _settled(steps) - before <= seen + 2


async def test_exception_while_reading_the_stream_stops_the_work(stages: HandleStages, steps: Steps) -> None:
    async def fail_at_the_third_step() -> None:
        async with stages.denoise(await _request(stages)) as events:
            await _third_step(events)
            raise ZeroDivisionError

    before = await _settled(steps)
    with pytest.raises(ZeroDivisionError):
        await fail_at_the_third_step()
    assert 3 <= await _settled(steps) - before < 30


async def test_requests_are_served_after_cancellations(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address) as client:
        response = await client.post("/v1/images/generations", json={"prompt": "a red circle"}, timeout=30)
    assert response.status_code == 200
