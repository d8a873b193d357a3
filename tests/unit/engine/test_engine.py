"""The engine alone, on the zoo's model: what leaves it, when it stops, and what outlives what."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, Text, TextEmbeds
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId, StepEvent
from atelier.core.errors import GenerationFailed, ModelUnavailable, QueueFull
from atelier.engine.engine import Engine, Runners
from atelier.engine.request import Event
from atelier.engine.runner import Runner
from atelier.models.text_encoder import TextEncoders
from tests.local_stages import CPU

_WAIT_S = 60


@pytest.fixture(scope="module")
def embeds(catalogue: Catalogue) -> TextEmbeds:
    return TextEncoders(catalogue.model(None), CPU).encode([Text("a red circle", "a red circle")])[0]


@pytest.fixture
def engine(catalogue: Catalogue) -> Iterator[Engine]:
    engine = Engine(lambda: {"tiny-sdxl": Runner(catalogue.model(None), CPU)}, num_threads=2, max_waiting=3)
    yield engine
    engine.close()


def _request(embeds: TextEmbeds, **changes: object) -> DenoiseRequest:
    request = DenoiseRequest(
        request_id=RequestId("req_a"),
        model="tiny-sdxl",
        height=64,
        width=96,
        seeds=(1,),
        num_inference_steps=4,
        guidance_scale=5.0,
        conditioning=Conditioning(positive=embeds, negative=None),
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def _result(engine: Engine, request: DenoiseRequest) -> Event:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(request, events.put)
    return events.get(timeout=_WAIT_S)


def _latents(engine: Engine, request: DenoiseRequest) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    event = _result(engine, request)
    assert isinstance(event, Denoised)
    return event.latents


def test_latents_have_the_requests_shape_and_are_repeatable(engine: Engine, embeds: TextEmbeds) -> None:
    first = _latents(engine, _request(embeds))
    assert first.shape == (1, 4, 8, 12)
    assert np.array_equal(first, _latents(engine, _request(embeds)))


def test_an_image_depends_on_its_own_seed_only(engine: Engine, embeds: TextEmbeds) -> None:
    together = _latents(engine, _request(embeds, seeds=(1, 2)))
    alone = _latents(engine, _request(embeds, seeds=(2,)))
    assert np.abs(together[1] - alone[0]).max() < 5e-4 * np.abs(alone).max()
    assert np.abs(together[0] - alone[0]).max() > 0.1


def test_guidance_of_one_or_less_ignores_the_negative_prompt(engine: Engine, embeds: TextEmbeds) -> None:
    plain = _request(embeds, guidance_scale=1.0)
    with_negative = replace(plain, conditioning=Conditioning(positive=embeds, negative=embeds))
    assert np.array_equal(_latents(engine, plain), _latents(engine, with_negative))


def test_a_prompt_of_two_chunks_beside_a_negative_of_one(engine: Engine, embeds: TextEmbeds) -> None:
    """What pads the shorter one is masked: it changes nothing."""
    long = replace(embeds, prompt_embeds=np.concatenate([embeds.prompt_embeds] * 2))
    padded = replace(embeds, prompt_embeds=np.concatenate([embeds.prompt_embeds, 0 * embeds.prompt_embeds]))
    short_beside_long = Conditioning(positive=long, negative=embeds)
    unmasked = Conditioning(positive=long, negative=padded)
    ours = _latents(engine, _request(embeds, guidance_scale=1.5, conditioning=short_beside_long))
    theirs = _latents(engine, _request(embeds, guidance_scale=1.5, conditioning=unmasked))
    assert np.abs(ours - theirs).max() > 1e-3
    alone = _latents(engine, _request(embeds, guidance_scale=1.0))
    twice = Conditioning(positive=embeds, negative=long)
    guided = _latents(engine, _request(embeds, guidance_scale=1.0 + 1e-6, conditioning=twice))
    assert np.abs(guided - alone).max() < 5e-4 * np.abs(alone).max()


def test_steps_are_told_only_to_who_listens(engine: Engine, embeds: TextEmbeds) -> None:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(_request(embeds, wants_steps=True), events.put)
    told = [events.get(timeout=_WAIT_S) for _ in range(5)]
    assert told[:4] == [StepEvent(step, 4) for step in (1, 2, 3, 4)]
    assert isinstance(told[4], Denoised)
    assert isinstance(_result(engine, _request(embeds)), Denoised)


def test_a_cancelled_request_stops_before_the_next_step(engine: Engine, embeds: TextEmbeds) -> None:
    steps: list[Event] = []
    ended = threading.Event()

    def cancel_after_two(event: Event) -> None:
        steps.append(event)
        if len(steps) == 2:
            engine.cancel(RequestId("req_a"))
            ended.set()

    engine.submit(_request(embeds, num_inference_steps=100, wants_steps=True), cancel_after_two)
    assert ended.wait(_WAIT_S)
    assert isinstance(_result(engine, _request(embeds, request_id=RequestId("req_b"))), Denoised)
    assert len(steps) == 2
    assert engine.status().num_steps == 2 + 4


def test_a_waiting_request_can_be_cancelled(engine: Engine, embeds: TextEmbeds) -> None:
    in_work = threading.Event()
    events: list[Event] = []
    engine.submit(_request(embeds, num_inference_steps=100, wants_steps=True), lambda _: in_work.set())
    assert in_work.wait(_WAIT_S)
    engine.submit(_request(embeds, request_id=RequestId("req_b")), events.append)
    engine.cancel(RequestId("req_b"))
    engine.cancel(RequestId("req_a"))
    assert isinstance(_result(engine, _request(embeds, request_id=RequestId("req_c"))), Denoised)
    assert events == []


def test_a_full_inbox_refuses(engine: Engine, embeds: TextEmbeds) -> None:
    in_work = threading.Event()
    engine.submit(_request(embeds, num_inference_steps=100, wants_steps=True), lambda _: in_work.set())
    assert in_work.wait(_WAIT_S)
    for index in range(3):
        engine.submit(_request(embeds, request_id=RequestId(f"req_{index}")), lambda _: None)
    with pytest.raises(QueueFull):
        engine.submit(_request(embeds), lambda _: None)
    assert engine.status().num_waiting == 3
    for name in ("req_a", "req_0", "req_1", "req_2"):
        engine.cancel(RequestId(name))


def test_a_request_that_turns_nan_fails_alone(engine: Engine, embeds: TextEmbeds) -> None:
    poisoned = replace(embeds, prompt_embeds=np.full_like(embeds.prompt_embeds, np.nan))
    bad = _request(embeds, conditioning=Conditioning(positive=poisoned, negative=None))
    assert isinstance(_result(engine, bad), GenerationFailed)
    assert isinstance(_result(engine, _request(embeds)), Denoised)


def test_a_request_of_the_wrong_shape_fails_alone(engine: Engine, embeds: TextEmbeds) -> None:
    narrow = replace(embeds, prompt_embeds=embeds.prompt_embeds[:, :7])
    failure = _result(engine, _request(embeds, conditioning=Conditioning(positive=narrow, negative=None)))
    assert isinstance(failure, GenerationFailed)
    assert "req_a" in str(failure)
    engine.check(stall_s=_WAIT_S)
    assert isinstance(_result(engine, _request(embeds)), Denoised)


def test_the_health_check_sees_a_stalled_loop(engine: Engine, embeds: TextEmbeds) -> None:
    stalled, go_on = threading.Event(), threading.Event()

    def stall(_: Event) -> None:
        stalled.set()
        go_on.wait(_WAIT_S)

    engine.submit(_request(embeds, wants_steps=True), stall)
    assert stalled.wait(_WAIT_S)
    with pytest.raises(RuntimeError, match="stood still"):
        engine.check(stall_s=0)
    go_on.set()


def test_a_model_that_cannot_be_loaded_is_the_constructors_error() -> None:
    def load() -> Runners:
        raise ModelUnavailable("no files")

    with pytest.raises(ModelUnavailable, match="no files"):
        Engine(load, num_threads=1, max_waiting=1)
