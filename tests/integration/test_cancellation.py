"""Work stops before the next step when a client leaves, an exception is raised or a deadline passes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from ray import serve

from atelier.core.conditioning import Prompts, Text
from atelier.core.denoising import DenoiseRequest, Pass, RequestId, StepEvent
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from deployments.handles import GraphHandles
from deployments.limits import RouterLimits
from deployments.readiness import Readiness
from deployments.stages import HandleStages
from tests.integration.steps import Steps

#: Steps take about 0.1 s, longer than a cancellation takes to arrive.
_SLOW = {"prompt": "a red circle", "num_inference_steps": 150, "size": "256x256", "n": 2}
#: Steps that may still run between the last look at the counter and the cancellation's arrival.
_MAX_LATE_STEPS = 3


@pytest.fixture
def stages(address: str) -> HandleStages:
    assert address
    return HandleStages(
        GraphHandles(
            text_encoder=serve.get_deployment_handle("TextEncoder", "atelier"),
            annotator=serve.get_deployment_handle("Annotator", "atelier"),
            denoiser=serve.get_deployment_handle("Denoiser", "atelier"),
            autoencoder=serve.get_deployment_handle("Autoencoder", "atelier"),
            upscaler=serve.get_deployment_handle("Upscaler", "atelier"),
        ),
        Readiness("atelier"),
        RouterLimits().of_calls,
        own_metrics=str,
    )


async def _request(stages: HandleStages) -> DenoiseRequest:
    text = Text("a red circle", "a red circle")
    encoded = await stages.encode_texts("tiny-sdxl", Prompts(positive=text, negative=None), "fast")
    return DenoiseRequest(
        request_id=RequestId("req_test"),
        pass_=Pass(
            model="tiny-sdxl",
            size=Size(width=256, height=256),
            seeds=(1, 2),
            sampling=Sampling(num_inference_steps=150),
            guidance_scale=5.0,
        ),
        conditioning=encoded.conditioning,
        report_steps=True,
    )


async def test_an_http_client_that_leaves_stops_the_work(address: str, steps: Steps) -> None:
    before = await steps.until_idle()
    async with httpx2.AsyncClient(base_url=address) as client:
        answer = asyncio.create_task(client.post("/v1/images/generations", json=_SLOW, timeout=60))
        await steps.wait_for(before + 5)
        answer.cancel()
        seen = await steps.done()
    assert await steps.until_idle() - seen <= _MAX_LATE_STEPS


async def test_a_deadline_stops_the_work(address: str, steps: Steps) -> None:
    before = await steps.until_idle()
    async with httpx2.AsyncClient(base_url=address) as client:
        response = await client.post("/v1/images/generations", json={**_SLOW, "deadline_s": 1.0}, timeout=30)
        seen = await steps.done()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert seen > before
    assert await steps.until_idle() - seen <= _MAX_LATE_STEPS
    assert seen - before < 75


async def test_leaving_an_event_stream_over_http_stops_the_work(address: str, steps: Steps) -> None:
    before = await steps.until_idle()
    body = {**_SLOW, "stream": True, "partial_images": 3, "progress": True}
    async with (
        httpx2.AsyncClient(base_url=address) as client,
        client.stream("POST", "/v1/images/generations", json=body, timeout=30) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data:") and json.loads(line[5:]).get("step") == 5:
                break
        seen = await steps.done()
    assert seen - before >= 5
    assert await steps.until_idle() - seen <= _MAX_LATE_STEPS


async def _third_step(events: AsyncIterator[object]) -> StepEvent:
    async for event in events:
        if isinstance(event, StepEvent) and event.step == 3:
            return event
    raise AssertionError("the stream ended before its third step")


async def test_leaving_a_stream_of_stages_stops_the_work(stages: HandleStages, steps: Steps) -> None:
    before = await steps.until_idle()
    async with stages.denoise(await _request(stages)) as events:
        assert await _third_step(events) == StepEvent(3, 150)
        seen = await steps.done()
    assert seen - before >= 3
    assert await steps.until_idle() - seen <= _MAX_LATE_STEPS


async def test_an_exception_inside_the_context_of_a_stream_stops_the_work(stages: HandleStages, steps: Steps) -> None:
    async def fail_after_three_steps() -> None:
        async with stages.denoise(await _request(stages)) as events:
            await _third_step(events)
            raise ZeroDivisionError

    await steps.until_idle()
    with pytest.raises(ZeroDivisionError):
        await fail_after_three_steps()
    seen = await steps.done()
    assert await steps.until_idle() - seen <= _MAX_LATE_STEPS


async def test_a_request_after_cancelled_ones_is_served(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address) as client:
        response = await client.post("/v1/images/generations", json={"prompt": "a red circle"}, timeout=30)
    assert response.status_code == 200
