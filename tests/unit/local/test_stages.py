from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Prompts, Text
from atelier.core.control import Annotation
from atelier.core.denoising import Denoised, DenoiseRequest, Heartbeat, Pass, RequestId, StepEvent
from atelier.core.errors import GenerationFailed, InvalidParameter
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.local import denoising
from atelier.local.stages import DEFAULT_SETTINGS, LocalStages, local_stages
from atelier.pipeline.stages import Stages

_SIZE = Size(width=64, height=32)
_PROMPTS = Prompts(positive=Text("a red circle", "a red circle"), negative=None)
_WAIT_S = 20


async def _request(stages: LocalStages, *, num_steps: int = 4) -> DenoiseRequest:
    encoded = await stages.encode_texts("small-sdxl", _PROMPTS, "fast")
    return DenoiseRequest(
        request_id=RequestId("req_test"),
        pass_=Pass(
            model="small-sdxl",
            size=_SIZE,
            seeds=(1,),
            sampling=Sampling(num_inference_steps=num_steps),
            guidance_scale=5.0,
        ),
        conditioning=encoded.conditioning,
        report_steps=True,
    )


async def _until_idle(stages: LocalStages) -> None:
    async with asyncio.timeout(_WAIT_S):
        while stages.engine.status().num_running:  # noqa: ASYNC110 the engine has no event for it
            await asyncio.sleep(0.005)


def _as_protocol(stages: LocalStages) -> Stages:
    """Let mypy check the class against the Protocol."""
    return stages


def test_local_stages_have_the_signatures_of_the_protocol() -> None:
    for name, method in inspect.getmembers(Stages, inspect.isfunction):
        if not name.startswith("_"):
            ours = inspect.signature(getattr(LocalStages, name)).parameters
            assert list(ours) == list(inspect.signature(method).parameters), name


async def test_a_text_becomes_an_image(small_stages: LocalStages) -> None:
    async with small_stages.denoise(await _request(small_stages)) as events:
        received = [event async for event in events]
    assert received[:-1] == [StepEvent(step, 4) for step in range(1, 5)]
    denoised = received[-1]
    assert isinstance(denoised, Denoised)
    decoded = await small_stages.decode_latents("small-sdxl", denoised.latents)
    assert decoded.pixels.shape == (1, 32, 64, 3)
    assert decoded.pixels.dtype == np.uint8
    assert set(decoded.origin.weights) == {"small-sdxl/vae"}
    encoded = await small_stages.encode_latents("small-sdxl", decoded.pixels)
    assert encoded.mean.shape == encoded.std.shape == denoised.latents.shape
    larger = await small_stages.upscale("tiny-x4", decoded.pixels[0], Size(width=200, height=90), "fast")
    assert (larger.pixels.shape, larger.upscaler) == ((90, 200, 3), "tiny-x4")


@pytest.mark.slow
async def test_the_place_names_the_width_of_exact_calls(
    small_stages: LocalStages, small_catalogue: Catalogue
) -> None:
    """Bits of exact requests depend on the number of rows per call."""

    async def place(stages: LocalStages) -> str:
        async with stages.denoise(await _request(stages)) as events:
            *_, denoised = [event async for event in events]
        assert isinstance(denoised, Denoised)
        return denoised.origin.place

    settings = replace(DEFAULT_SETTINGS, num_threads=1)
    async with local_stages(small_catalogue, settings=replace(settings, exact_width=4)) as same:
        assert await place(same) == await place(small_stages)
    async with local_stages(small_catalogue, settings=replace(settings, exact_width=2)) as other:
        assert await place(other) != await place(small_stages)


async def test_an_image_is_annotated_at_its_own_size(small_stages: LocalStages) -> None:
    annotated = await small_stages.annotate(Annotation("depth"), np.zeros((40, 56, 3), dtype=np.uint8))
    assert annotated.control_image.shape == (40, 56, 3)
    assert set(annotated.origin.weights) == {"tiny-depth-anything"}


async def test_leaving_the_stream_stops_the_work(small_stages: LocalStages) -> None:
    before = small_stages.engine.status().num_steps
    async with small_stages.denoise(await _request(small_stages, num_steps=150)) as events:
        assert isinstance(await anext(events), StepEvent)
        seen = small_stages.engine.status().num_steps
    await _until_idle(small_stages)
    # At most two steps end after `seen` was read: one was running then, and one when the context was left.
    assert 1 <= seen - before <= small_stages.engine.status().num_steps - before <= seen - before + 2


async def _drain(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


async def test_the_error_that_ends_a_request_is_raised_by_its_stream(small_stages: LocalStages) -> None:
    request = await _request(small_stages)
    positive = request.conditioning.positive
    narrow = replace(positive, prompt_embeds=positive.prompt_embeds[:, :8])
    broken = replace(request, conditioning=replace(request.conditioning, positive=narrow))
    with pytest.raises(GenerationFailed):
        async with small_stages.denoise(broken) as events:
            await _drain(events)


async def test_a_text_that_is_too_long_is_rejected(small_stages: LocalStages) -> None:
    long = " ".join(["circle"] * 2000)
    with pytest.raises(InvalidParameter, match="tokens"):
        await small_stages.encode_texts("small-sdxl", Prompts(positive=Text(long, long), negative=None), "fast")


async def test_stages_are_not_ready_after_their_engine_has_stopped(small_catalogue: Catalogue) -> None:
    settings = replace(DEFAULT_SETTINGS, num_threads=1)
    async with local_stages(small_catalogue, settings=settings) as stages:
        assert await stages.check_ready()
        assert (await stages.status()).is_ok
    assert not await stages.check_ready()
    status = await stages.status()
    assert not status.is_ok
    [broken] = [one for one in status.services if one.status != "running"]
    assert (broken.name, broken.message) == ("Denoiser", "the engine's thread has ended")


async def test_metrics_count_steps_and_requests(small_stages: LocalStages) -> None:
    async def steps() -> int:
        lines = dict(line.split() for line in (await small_stages.metrics_text()).splitlines())
        assert set(lines) == {
            "atelier_denoiser_steps_total",
            "atelier_denoiser_waiting_requests",
            "atelier_denoiser_active_requests",
        }
        return int(lines["atelier_denoiser_steps_total"])

    before = await steps()
    async with small_stages.denoise(await _request(small_stages, num_steps=3)) as events:
        await _drain(events)
    assert await steps() - before == 3


async def test_a_stream_without_events_sends_heartbeats(
    small_stages: LocalStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoising, "HEARTBEAT_S", 0.001)
    request = replace(await _request(small_stages, num_steps=100), report_steps=False)
    async with small_stages.denoise(request) as events:
        received = [event async for event in events]
    assert isinstance(received.pop(), Denoised)
    assert set(received) == {Heartbeat()}
