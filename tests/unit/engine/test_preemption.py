"""A request steps aside for others in the middle, and goes on later with the same bits."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.control import Control
from atelier.core.denoising import Denoised, DenoiseRequest, InitImage, RequestId, StepEvent
from atelier.core.sampling import Sampling
from atelier.engine.engine import Engine, StepReport
from atelier.engine.request import Event
from tests.engines import WAIT_S, new_engine, run_together

_NUM_STEPS = 6


@pytest.fixture
def engine(small_catalogue: Catalogue, reports: list[StepReport]) -> Iterator[Engine]:
    """An engine with room for one request."""
    engine = new_engine(small_catalogue, max_rows=3, observe=reports.append)
    yield engine
    engine.close()


@pytest.fixture
def long(request_: DenoiseRequest) -> DenoiseRequest:
    """A request of low priority that uses everything that a request keeps: noise, D₋₂, a mask and a control."""
    random = np.random.default_rng(0)
    mean, std = (random.random((1, 4, 8, 12), dtype=np.float32) for _ in range(2))
    sampling = Sampling(num_inference_steps=2 * _NUM_STEPS, sampler="dpmpp_2m_sde", strength=0.5)
    return replace(
        request_,
        request_id=RequestId("long"),
        pass_=replace(request_.pass_, sampling=sampling, reproducibility="exact"),
        init_image=InitImage(mean=mean, std=std, mask=(random.random((8, 12)) > 0.5).astype(np.float32)),
        controls=(
            Control(
                controlnet="small-canny",
                control_image=random.integers(0, 255, (64, 96, 3), dtype=np.uint8),
                controlnet_conditioning_scale=0.7,
            ),
        ),
        priority="batch",
        report_steps=True,
    )


def _submit(engine: Engine, request: DenoiseRequest, events: queue.Queue[tuple[str, Event]]) -> None:
    engine.submit(request, lambda event: events.put((request.request_id, event)))


def _until_ended(events: queue.Queue[tuple[str, Event]], num: int) -> list[tuple[str, Event]]:
    """All events until so many requests have ended."""
    received: list[tuple[str, Event]] = []
    while sum(not isinstance(event, StepEvent) for _, event in received) < num:
        received.append(events.get(timeout=WAIT_S))
    return received


def test_a_request_that_steps_aside_again_and_again_keeps_its_bits(
    engine: Engine, request_: DenoiseRequest, long: DenoiseRequest
) -> None:
    [alone] = run_together(engine, [replace(long, report_steps=False)])
    events: queue.Queue[tuple[str, Event]] = queue.Queue()
    short = replace(request_, pass_=replace(request_.pass_, sampling=Sampling(num_inference_steps=2)))

    def step_aside_after_each_step(event: Event) -> None:
        events.put(("long", event))
        if isinstance(event, StepEvent):
            _submit(engine, replace(short, request_id=RequestId(f"short {event.step}")), events)

    engine.submit(long, step_aside_after_each_step)
    received = _until_ended(events, 1 + _NUM_STEPS)
    names = [name for name, event in received if not isinstance(event, Denoised)]
    ends = [name for name, event in received if isinstance(event, Denoised)]
    assert names == ["long"] * _NUM_STEPS
    assert ends == [*(f"short {step}" for step in range(1, _NUM_STEPS)), "long", f"short {_NUM_STEPS}"]
    [denoised] = [event for name, event in received if name == "long" and isinstance(event, Denoised)]
    assert np.array_equal(denoised.latents, alone)


def test_a_parked_request_can_be_cancelled(engine: Engine, request_: DenoiseRequest, long: DenoiseRequest) -> None:
    events: queue.Queue[tuple[str, Event]] = queue.Queue()
    short = replace(request_, report_steps=True)

    def cancel_long(event: Event) -> None:
        engine.cancel(RequestId("long"))
        events.put(("short", event))

    def step_aside(event: Event) -> None:
        events.put(("long", event))
        engine.submit(short, cancel_long)

    engine.submit(long, step_aside)
    assert [name for name, _ in _until_ended(events, 1)] == ["long", *["short"] * 5]
    run_together(engine, [request_])
    assert events.empty()
    assert engine.status().num_waiting == 0
