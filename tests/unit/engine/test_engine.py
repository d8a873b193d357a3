"""The engine alone, on the zoo's model: what leaves it, when it stops, and what outlives what."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, Text, TextEmbeds
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId, StepEvent
from atelier.core.errors import GenerationFailed, ModelUnavailable, QueueFull
from atelier.core.sampling import SAMPLERS, Sampling
from atelier.engine.engine import Engine, Runners, StepReport
from atelier.engine.packing import Packed
from atelier.engine.request import ActiveRequest, Event
from atelier.engine.runner import Runner
from atelier.families.sdxl.text import TextEncoders
from tests.local_stages import CPU, HERE, SETTINGS, new_engine

_WAIT_S = 60


@pytest.fixture(scope="module")
def embeds(catalogue: Catalogue) -> TextEmbeds:
    return TextEncoders(catalogue.model(None), CPU).encode([Text("a red circle", "a red circle")])[0]


@pytest.fixture
def reports() -> list[StepReport]:
    return []


@pytest.fixture
def engine(catalogue: Catalogue, reports: list[StepReport]) -> Iterator[Engine]:
    engine = new_engine(catalogue, max_waiting=3, observe=reports.append)
    yield engine
    engine.close()


def _request(embeds: TextEmbeds, *, steps: int = 4, **changes: object) -> DenoiseRequest:
    request = DenoiseRequest(
        request_id=RequestId("req_a"),
        model="tiny-sdxl",
        height=64,
        width=96,
        seeds=(1,),
        sampling=Sampling(num_inference_steps=steps),
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

    engine.submit(_request(embeds, steps=100, wants_steps=True), cancel_after_two)
    assert ended.wait(_WAIT_S)
    assert isinstance(_result(engine, _request(embeds, request_id=RequestId("req_b"))), Denoised)
    assert len(steps) == 2
    assert engine.status().num_steps == 2 + 4


def test_a_waiting_request_can_be_cancelled(engine: Engine, embeds: TextEmbeds) -> None:
    in_work = threading.Event()
    events: list[Event] = []
    engine.submit(_request(embeds, steps=100, wants_steps=True), lambda _: in_work.set())
    assert in_work.wait(_WAIT_S)
    engine.submit(_request(embeds, request_id=RequestId("req_b")), events.append)
    engine.cancel(RequestId("req_b"))
    engine.cancel(RequestId("req_a"))
    assert isinstance(_result(engine, _request(embeds, request_id=RequestId("req_c"))), Denoised)
    assert events == []


@contextmanager
def _held_at_its_first_step(engine: Engine, request: DenoiseRequest) -> Iterator[None]:
    """Inside the loop stands still: whatever is submitted there meets at the next step."""
    holding, go_on, ended = (threading.Event() for _ in range(3))

    def hold(event: Event) -> None:
        if isinstance(event, Denoised):
            ended.set()
        holding.set()
        go_on.wait(_WAIT_S)

    engine.submit(replace(request, wants_steps=True), hold)
    assert holding.wait(_WAIT_S)
    yield
    go_on.set()
    assert ended.wait(_WAIT_S)


def test_a_full_inbox_refuses(engine: Engine, embeds: TextEmbeds) -> None:
    with _held_at_its_first_step(engine, _request(embeds)):
        for index in range(3):
            engine.submit(_request(embeds, request_id=RequestId(f"req_{index}")), lambda _: None)
        with pytest.raises(QueueFull):
            engine.submit(_request(embeds), lambda _: None)
        assert engine.status().num_waiting == 3


def test_a_late_request_joins_at_the_next_step(engine: Engine, embeds: TextEmbeds, reports: list[StepReport]) -> None:
    late: queue.Queue[Event] = queue.Queue()
    with _held_at_its_first_step(engine, _request(embeds, steps=6)):
        engine.submit(_request(embeds, request_id=RequestId("req_late"), seeds=(3, 4), guidance_scale=1.0), late.put)
    assert isinstance(late.get(timeout=_WAIT_S), Denoised)
    assert [(report.num_requests, report.num_rows) for report in reports[:6]] == [(1, 2), *[(2, 4)] * 4, (1, 2)]


def test_sixteen_different_requests_share_a_call_and_are_what_they_are_alone(
    catalogue: Catalogue, embeds: TextEmbeds, reports: list[StepReport]
) -> None:
    engine = new_engine(catalogue, observe=reports.append)
    samplers = list(SAMPLERS)
    requests = [
        _request(
            replace(embeds, prompt_embeds=np.concatenate([embeds.prompt_embeds] * (1 + index % 3))),
            request_id=RequestId(f"req_{index}"),
            seeds=(index,),
            sampling=Sampling(num_inference_steps=2 + index % 5, sampler=samplers[index % len(samplers)]),
            guidance_scale=1.0 + index % 4,
        )
        for index in range(16)
    ]
    together: dict[str, queue.Queue[Event]] = {request.request_id: queue.Queue() for request in requests}
    with _held_at_its_first_step(engine, _request(embeds, width=64)):
        for request in requests:
            engine.submit(request, together[request.request_id].put)
    ended = {name: events.get(timeout=_WAIT_S) for name, events in together.items()}
    assert (16, 28) in [(report.num_requests, report.num_rows) for report in reports]
    for request in requests:
        event = ended[request.request_id]
        assert isinstance(event, Denoised)
        alone = _latents(engine, request)
        assert np.abs(event.latents - alone).max() < 5e-4 * np.abs(alone).max()
    engine.close()


def test_calls_of_exact_requests_are_filled_up(engine: Engine, embeds: TextEmbeds, reports: list[StepReport]) -> None:
    request = _request(embeds, steps=2, seeds=(1, 2, 3), reproducibility="exact")
    assert isinstance(_result(engine, request), Denoised)
    assert [(report.num_rows, report.num_padding_rows) for report in reports[:1]] == [(6, 2)]


def test_sizes_take_turns(engine: Engine, embeds: TextEmbeds, reports: list[StepReport]) -> None:
    ended: queue.Queue[Event] = queue.Queue()
    with _held_at_its_first_step(engine, _request(embeds, steps=5)):
        other = _request(embeds, request_id=RequestId("req_b"), height=80, guidance_scale=1.0)
        engine.submit(other, ended.put)
    assert isinstance(ended.get(timeout=_WAIT_S), Denoised)
    assert [report.num_rows for report in reports[:8]] == [2, 1, 2, 1, 2, 1, 2, 1]


def test_a_batch_never_exceeds_its_rows(catalogue: Catalogue, embeds: TextEmbeds, reports: list[StepReport]) -> None:
    engine = new_engine(catalogue, max_rows=4, observe=reports.append)
    ended: queue.Queue[Event] = queue.Queue()
    with _held_at_its_first_step(engine, _request(embeds)):
        for index in range(5):
            engine.submit(_request(embeds, request_id=RequestId(f"req_{index}")), ended.put)
        engine.submit(_request(embeds, request_id=RequestId("req_wide"), seeds=(1, 2, 3)), ended.put)
    assert all(isinstance(ended.get(timeout=_WAIT_S), Denoised) for _ in range(6))
    assert {report.num_rows for report in reports} == {2, 4, 6}
    engine.close()


def test_a_request_that_turns_nan_fails_alone_and_leaves_no_trace(engine: Engine, embeds: TextEmbeds) -> None:
    poisoned = replace(embeds, prompt_embeds=np.full_like(embeds.prompt_embeds, np.nan))
    bad = _request(
        embeds, request_id=RequestId("req_bad"), conditioning=Conditioning(positive=poisoned, negative=None)
    )
    good = _request(embeds, request_id=RequestId("req_good"))
    ends: dict[str, queue.Queue[Event]] = {"bad": queue.Queue(), "good": queue.Queue()}
    with _held_at_its_first_step(engine, _request(embeds, width=64)):
        engine.submit(bad, ends["bad"].put)
        engine.submit(good, ends["good"].put)
    assert isinstance(ends["bad"].get(timeout=_WAIT_S), GenerationFailed)
    beside_it = ends["good"].get(timeout=_WAIT_S)
    assert isinstance(beside_it, Denoised)
    alone = _latents(engine, good)
    assert np.abs(beside_it.latents - alone).max() < 5e-4 * np.abs(alone).max()


def test_a_step_that_raises_ends_only_the_request_at_fault(
    engine: Engine, embeds: TextEmbeds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Runner.step

    def fail_for_seed_13(runner: Runner, requests: Sequence[ActiveRequest], packed: Packed) -> None:
        if any(request.arrival.request.seeds == (13,) for request in requests):
            raise MemoryError("too much for seed 13")
        step(runner, requests, packed)

    monkeypatch.setattr(Runner, "step", fail_for_seed_13)
    ends: dict[int, queue.Queue[Event]] = {seed: queue.Queue() for seed in (12, 13, 14)}
    with _held_at_its_first_step(engine, _request(embeds, width=64)):
        for seed, events in ends.items():
            engine.submit(_request(embeds, request_id=RequestId(f"req_{seed}"), seeds=(seed,)), events.put)
    failure = ends[13].get(timeout=_WAIT_S)
    assert isinstance(failure, GenerationFailed)
    assert "too much for seed 13" in str(failure)
    assert all(isinstance(ends[seed].get(timeout=_WAIT_S), Denoised) for seed in (12, 14))
    assert "one by one" in caplog.text


def test_a_result_that_nobody_takes_does_not_stop_the_loop(engine: Engine, embeds: TextEmbeds) -> None:
    def refuse(_: Event) -> None:
        raise RuntimeError("the client's event loop is closed")

    engine.submit(_request(embeds), refuse)
    assert isinstance(_result(engine, _request(embeds, request_id=RequestId("req_b"))), Denoised)


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
        Engine(load, SETTINGS, place=HERE)
