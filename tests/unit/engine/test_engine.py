"""The engine on a small model: events, batching, cancellation, and isolation of failures."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, Floats, Text, TextEmbeds
from atelier.core.denoising import Denoised, DenoiseRequest, InitImage, Pass, RequestId, StepEvent
from atelier.core.errors import GenerationFailed, ModelNotFound, ModelUnavailable, QueueFull
from atelier.core.geometry import Size
from atelier.core.sampling import SAMPLERS, Sampling
from atelier.engine.engine import Engine, EngineStatus, StepReport
from atelier.engine.packing import Packed
from atelier.engine.request import Event, RunningRequest
from atelier.engine.runner import Runner
from atelier.engine.runners import Runners
from atelier.families.sdxl.text import TextEncoders
from tests.engines import SETTINGS, Clock, held_at_first_step, new_engine, run_together
from tests.small_models import CPU

_WAIT_S = 60


@pytest.fixture(scope="module")
def catalogue(small_catalogue: Catalogue) -> Catalogue:
    """The small model without ControlNets, which take longer to load than it does."""
    return small_catalogue.only(["small-sdxl"])


@pytest.fixture(scope="module")
def embeds(catalogue: Catalogue) -> TextEmbeds:
    return TextEncoders(catalogue.model(None), CPU).encode([Text("a red circle", "a red circle")])[0]


@pytest.fixture
def engine(catalogue: Catalogue, reports: list[StepReport], clock: Clock) -> Iterator[Engine]:
    engine = new_engine(catalogue, max_waiting=3, observe=reports.append, now_s=clock)
    yield engine
    engine.close()


_PASS_FIELDS = {field.name for field in fields(Pass)}


def _request(embeds: TextEmbeds, *, steps: int = 4, **changes: object) -> DenoiseRequest:
    """A request of one guided image; `changes` are fields of the request or of its pass."""
    request = DenoiseRequest(
        request_id=RequestId("req_a"),
        pass_=Pass(
            model="small-sdxl",
            size=Size(width=96, height=64),
            seeds=(1,),
            sampling=Sampling(num_inference_steps=steps),
            guidance_scale=5.0,
        ),
        conditioning=Conditioning(positive=embeds, negative=None),
    )
    of_pass = {name: changes.pop(name) for name in _PASS_FIELDS & changes.keys()}
    return replace(request, pass_=replace(request.pass_, **of_pass), **changes)  # type: ignore[arg-type]


def _result(engine: Engine, request: DenoiseRequest) -> Event:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(request, events.put)
    return events.get(timeout=_WAIT_S)


def _latents(engine: Engine, request: DenoiseRequest) -> Floats:
    event = _result(engine, request)
    assert isinstance(event, Denoised)
    return event.latents


def test_latents_have_the_requests_shape_and_are_repeatable(engine: Engine, embeds: TextEmbeds) -> None:
    first = _latents(engine, _request(embeds))
    assert first.shape == (1, 4, 8, 12)
    assert np.array_equal(first, _latents(engine, _request(embeds)))


def test_image_depends_on_its_own_seed_only(engine: Engine, embeds: TextEmbeds) -> None:
    together = _latents(engine, _request(embeds, seeds=(1, 2)))
    alone = _latents(engine, _request(embeds, seeds=(2,)))
    assert np.abs(together[1] - alone[0]).max() < 5e-4 * np.abs(alone).max()
    assert np.abs(together[0] - alone[0]).max() > 0.1


def test_guidance_of_one_or_less_ignores_the_negative_prompt(engine: Engine, embeds: TextEmbeds) -> None:
    plain = _request(embeds, guidance_scale=1.0)
    with_negative = replace(plain, conditioning=Conditioning(positive=embeds, negative=embeds))
    assert np.array_equal(_latents(engine, plain), _latents(engine, with_negative))


def test_padding_of_the_shorter_prompt_is_masked(engine: Engine, embeds: TextEmbeds) -> None:
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


def test_step_events_are_sent_only_if_asked_for(engine: Engine, embeds: TextEmbeds) -> None:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(_request(embeds, report_steps=True), events.put)
    received = [events.get(timeout=_WAIT_S) for _ in range(5)]
    assert received[:4] == [StepEvent(step, 4) for step in (1, 2, 3, 4)]
    assert isinstance(received[4], Denoised)
    assert isinstance(_result(engine, _request(embeds)), Denoised)


def test_previews_are_predictions_at_evenly_spaced_steps(engine: Engine, embeds: TextEmbeds) -> None:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(_request(embeds, steps=6, num_previews=2, seeds=(1, 2)), events.put)
    first, second, end = (events.get(timeout=_WAIT_S) for _ in range(3))
    assert isinstance(first, StepEvent)
    assert isinstance(second, StepEvent)
    assert isinstance(end, Denoised)
    assert [(event.step, event.total) for event in (first, second)] == [(2, 6), (4, 6)]
    assert first.preview is not None
    assert second.preview is not None
    assert first.preview.shape == second.preview.shape == end.latents.shape
    distances = [np.abs(preview - end.latents).max() for preview in (first.preview, second.preview)]
    assert distances[1] < distances[0]


def test_cancelled_request_leaves_before_the_next_step(engine: Engine, embeds: TextEmbeds) -> None:
    steps: list[Event] = []
    ended = threading.Event()

    def cancel_after_two(event: Event) -> None:
        steps.append(event)
        if len(steps) == 2:
            engine.cancel(RequestId("req_a"))
            ended.set()

    engine.submit(_request(embeds, steps=100, report_steps=True), cancel_after_two)
    assert ended.wait(_WAIT_S)
    assert isinstance(_result(engine, _request(embeds, request_id=RequestId("req_b"))), Denoised)
    assert len(steps) == 2
    assert engine.status() == EngineStatus(num_waiting=0, num_running=0, num_steps=2 + 4)


def test_cancelled_waiting_request_never_runs(engine: Engine, embeds: TextEmbeds, reports: list[StepReport]) -> None:
    events: list[Event] = []
    last: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds)):
        engine.submit(_request(embeds, request_id=RequestId("req_b")), events.append)
        engine.submit(_request(embeds, request_id=RequestId("req_c")), last.put)
        engine.cancel(RequestId("req_b"))
        assert engine.status().num_waiting == 1
    assert isinstance(last.get(timeout=_WAIT_S), Denoised)
    assert events == []
    assert max(report.num_requests for report in reports) == 2


def test_cancelling_a_finished_request_spares_the_next_one_of_its_id(engine: Engine, embeds: TextEmbeds) -> None:
    for _ in range(2):
        assert isinstance(_result(engine, _request(embeds)), Denoised)
        engine.cancel(RequestId("req_a"))


def test_a_request_for_another_model_is_refused_at_once(engine: Engine, embeds: TextEmbeds) -> None:
    with pytest.raises(ModelNotFound, match="model 'another'"):
        engine.submit(_request(embeds, model="another"), lambda _: None)


def test_request_beyond_the_bound_is_rejected(engine: Engine, embeds: TextEmbeds) -> None:
    """`max_waiting` is 3 here; running requests do not count."""
    ends: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds)):
        for index in range(3):
            engine.submit(_request(embeds, request_id=RequestId(f"req_{index}")), ends.put)
        with pytest.raises(QueueFull):
            engine.submit(_request(embeds, request_id=RequestId("req_3")), ends.put)
        assert engine.status() == EngineStatus(num_waiting=3, num_running=1, num_steps=1)
        engine.cancel(RequestId("req_0"))
        engine.submit(_request(embeds, request_id=RequestId("req_3")), ends.put)
    assert all(isinstance(ends.get(timeout=_WAIT_S), Denoised) for _ in range(3))


def test_late_request_joins_at_the_next_step(engine: Engine, embeds: TextEmbeds, reports: list[StepReport]) -> None:
    late: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds, steps=6)):
        engine.submit(_request(embeds, request_id=RequestId("req_late"), seeds=(3, 4), guidance_scale=1.0), late.put)
    assert isinstance(late.get(timeout=_WAIT_S), Denoised)
    assert [(report.num_requests, report.num_rows) for report in reports[:6]] == [(1, 2), *[(2, 4)] * 4, (1, 2)]


@pytest.mark.slow
def test_sixteen_different_requests_share_a_call_without_changing_each_other(
    catalogue: Catalogue, embeds: TextEmbeds, reports: list[StepReport]
) -> None:
    engine = new_engine(catalogue, max_rows=64, observe=reports.append)
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
    with held_at_first_step(engine, _request(embeds, size=Size(width=64, height=64))):
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


def test_calls_of_exact_requests_are_padded(engine: Engine, embeds: TextEmbeds, reports: list[StepReport]) -> None:
    request = _request(embeds, steps=2, seeds=(1, 2, 3), reproducibility="exact")
    assert isinstance(_result(engine, request), Denoised)
    assert [(report.num_rows, report.num_padding_rows) for report in reports[:1]] == [(6, 2)]


def test_batches_of_different_sizes_take_turns(
    engine: Engine, embeds: TextEmbeds, reports: list[StepReport], caplog: pytest.LogCaptureFixture
) -> None:
    ended: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds, steps=5)):
        other = _request(embeds, request_id=RequestId("req_b"), size=Size(width=64, height=96), guidance_scale=1.0)
        engine.submit(other, ended.put)
    assert isinstance(ended.get(timeout=_WAIT_S), Denoised)
    assert [report.num_rows for report in reports[:8]] == [2, 2, 1, 2, 1, 2, 1, 2]
    assert "step failed" not in caplog.text


def test_batches_share_the_time_and_not_the_steps(
    engine: Engine, embeds: TextEmbeds, reports: list[StepReport], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch, with two rows, takes 4 s for a step, and the other one a second."""
    step = Runner.step

    def timed(runner: Runner, requests: Sequence[RunningRequest], packed: Packed) -> None:
        step(runner, requests, packed)
        clock.now_s += {2: 4.0, 1: 1.0}[sum(request.num_rows for request in requests)]

    monkeypatch.setattr(Runner, "step", timed)
    ended: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds, steps=4)):
        size = Size(width=64, height=96)
        engine.submit(_request(embeds, request_id=RequestId("b"), size=size, guidance_scale=1.0, steps=8), ended.put)
    assert isinstance(ended.get(timeout=_WAIT_S), Denoised)
    assert [report.num_rows for report in reports[:11]] == [2, 2, 1, 1, 1, 1, 2, 1, 1, 1, 1]


def test_running_requests_never_exceed_the_rows(
    catalogue: Catalogue, embeds: TextEmbeds, reports: list[StepReport]
) -> None:
    """The model's default size is 64×64, so a row of 96×64 counts 1.5."""
    engine = new_engine(catalogue, max_rows=6, observe=reports.append)
    ended: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds)):
        for index in range(5):
            engine.submit(_request(embeds, request_id=RequestId(f"req_{index}")), ended.put)
        engine.submit(_request(embeds, request_id=RequestId("req_wide"), seeds=(1, 2, 3)), ended.put)
    assert all(isinstance(ended.get(timeout=_WAIT_S), Denoised) for _ in range(6))
    assert {report.num_rows for report in reports} == {2, 4, 6}
    engine.close()


def test_batches_share_the_rows_of_the_engine(
    catalogue: Catalogue, embeds: TextEmbeds, reports: list[StepReport]
) -> None:
    """Two rows of 64×64 beside two of 32×32, which count a quarter each, leave no room for two more of 64×64."""
    engine = new_engine(catalogue, max_rows=3, observe=reports.append)
    ended: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds, size=Size(width=64, height=64))):
        for index, side in enumerate([32, 64]):
            size = Size(width=side, height=side)
            engine.submit(_request(embeds, request_id=RequestId(f"req_{index}"), size=size), ended.put)
    assert all(isinstance(ended.get(timeout=_WAIT_S), Denoised) for _ in range(2))
    assert max(report.num_running for report in reports) == 2
    engine.close()


@pytest.mark.parametrize("num_chunks", [1, 3])
def test_long_prompts_count_more(
    catalogue: Catalogue, embeds: TextEmbeds, reports: list[StepReport], num_chunks: int
) -> None:
    engine = new_engine(catalogue, max_rows=4, observe=reports.append)
    long = replace(embeds, prompt_embeds=np.concatenate([embeds.prompt_embeds] * num_chunks))
    ended: queue.Queue[Event] = queue.Queue()
    size = Size(width=64, height=64)
    with held_at_first_step(engine, _request(embeds, size=size)):
        conditioning = Conditioning(positive=long, negative=None)
        engine.submit(_request(embeds, request_id=RequestId("long"), size=size, conditioning=conditioning), ended.put)
    assert isinstance(ended.get(timeout=_WAIT_S), Denoised)
    assert max(report.num_running for report in reports) == (2 if num_chunks == 1 else 1)
    engine.close()


def test_request_with_nan_fails_alone(engine: Engine, embeds: TextEmbeds) -> None:
    poisoned = replace(embeds, prompt_embeds=np.full_like(embeds.prompt_embeds, np.nan))
    bad = _request(
        embeds, request_id=RequestId("req_bad"), conditioning=Conditioning(positive=poisoned, negative=None)
    )
    good = _request(embeds, request_id=RequestId("req_good"))
    ends: dict[str, queue.Queue[Event]] = {"bad": queue.Queue(), "good": queue.Queue()}
    with held_at_first_step(engine, _request(embeds, size=Size(width=64, height=64))):
        engine.submit(bad, ends["bad"].put)
        engine.submit(good, ends["good"].put)
    assert isinstance(ends["bad"].get(timeout=_WAIT_S), GenerationFailed)
    beside_it = ends["good"].get(timeout=_WAIT_S)
    assert isinstance(beside_it, Denoised)
    alone = _latents(engine, good)
    assert np.abs(beside_it.latents - alone).max() < 5e-4 * np.abs(alone).max()


def test_failed_step_ends_only_the_request_at_fault(
    engine: Engine, embeds: TextEmbeds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Runner.step

    def fail_for_seed_13(runner: Runner, requests: Sequence[RunningRequest], packed: Packed) -> None:
        if any(request.request.pass_.seeds == (13,) for request in requests):
            raise MemoryError("too much for seed 13")
        step(runner, requests, packed)

    monkeypatch.setattr(Runner, "step", fail_for_seed_13)
    ends: dict[int, queue.Queue[Event]] = {seed: queue.Queue() for seed in (12, 13, 14)}
    with held_at_first_step(engine, _request(embeds, size=Size(width=64, height=64))):
        for seed, events in ends.items():
            engine.submit(_request(embeds, request_id=RequestId(f"req_{seed}"), seeds=(seed,)), events.put)
    failure = ends[13].get(timeout=_WAIT_S)
    assert isinstance(failure, GenerationFailed)
    assert "too much for seed 13" in str(failure)
    assert all(isinstance(ends[seed].get(timeout=_WAIT_S), Denoised) for seed in (12, 14))
    assert "one at a time" in caplog.text


def test_failing_emit_does_not_stop_the_loop(engine: Engine, embeds: TextEmbeds) -> None:
    def refuse(_: Event) -> None:
        raise RuntimeError("the client's event loop is closed")

    engine.submit(_request(embeds), refuse)
    assert isinstance(_result(engine, _request(embeds, request_id=RequestId("req_b"))), Denoised)


def test_request_with_embeddings_of_another_width_fails_alone(engine: Engine, embeds: TextEmbeds) -> None:
    narrow = replace(embeds, prompt_embeds=embeds.prompt_embeds[:, :7])
    failure = _result(engine, _request(embeds, conditioning=Conditioning(positive=narrow, negative=None)))
    assert isinstance(failure, GenerationFailed)
    assert "req_a" in str(failure)
    engine.check(stall_s=_WAIT_S)
    assert isinstance(_result(engine, _request(embeds)), Denoised)


def test_stalled_loop_fails_the_check_until_it_goes_on(engine: Engine, embeds: TextEmbeds, clock: Clock) -> None:
    with held_at_first_step(engine, _request(embeds)):
        clock.now_s = 10.0
        engine.check(stall_s=10)
        clock.now_s = 10.5
        with pytest.raises(RuntimeError, match="no progress for 10 s"):
            engine.check(stall_s=10)
    engine.check(stall_s=10)


def test_closed_engine_fails_the_check(catalogue: Catalogue) -> None:
    engine = new_engine(catalogue)
    engine.check(stall_s=_WAIT_S)
    engine.close()
    with pytest.raises(RuntimeError, match="thread has ended"):
        engine.check(stall_s=_WAIT_S)


def test_reports_measure_steps_and_the_gaps_between_them(
    engine: Engine,
    embeds: TextEmbeds,
    reports: list[StepReport],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Runner.step

    def step_of_two_seconds(runner: Runner, requests: Sequence[RunningRequest], packed: Packed) -> None:
        step(runner, requests, packed)
        clock.now_s += 2.0

    monkeypatch.setattr(Runner, "step", step_of_two_seconds)
    ended = threading.Event()

    def emit(event: Event) -> None:
        clock.now_s += 0.25
        if isinstance(event, Denoised):
            ended.set()

    engine.submit(_request(embeds, steps=3, seeds=(1, 2), reproducibility="exact", report_steps=True), emit)
    assert ended.wait(_WAIT_S)
    gaps_s = [None, 0.25, 0.25]
    assert reports == [
        StepReport(
            num_requests=1,
            num_rows=4,
            num_padding_rows=0,
            num_waiting=0,
            num_running=num_running,
            step_s=2.0,
            gap_s=gap_s,
        )
        for gap_s, num_running in zip(gaps_s, [1, 1, 0], strict=True)
    ]


def test_reports_count_requests_that_do_not_fit_yet(
    catalogue: Catalogue, embeds: TextEmbeds, reports: list[StepReport]
) -> None:
    engine = new_engine(catalogue, max_rows=2, observe=reports.append)
    ends: queue.Queue[Event] = queue.Queue()
    with held_at_first_step(engine, _request(embeds, steps=2)):
        for index in range(2):
            engine.submit(_request(embeds, steps=1, request_id=RequestId(f"req_{index}")), ends.put)
    assert all(isinstance(ends.get(timeout=_WAIT_S), Denoised) for _ in range(2))
    engine.close()
    assert [report.num_waiting for report in reports] == [0, 2, 1, 0]


@pytest.mark.parametrize("has_mask", [False, True])
def test_init_images_of_one_request_equal_requests_of_their_own(
    engine: Engine, embeds: TextEmbeds, has_mask: bool
) -> None:
    """Each image draws from its own generator, whether the request has one posterior per image or is one of many."""
    random = np.random.default_rng(0)
    mean, std = (random.random((2, 4, 8, 12), dtype=np.float32) for _ in range(2))
    mask = (random.random((8, 12)) > 0.5).astype(np.float32) if has_mask else None
    sampling = Sampling(num_inference_steps=6, sampler="euler_a", strength=0.5)
    together = _request(
        embeds,
        seeds=(3, 9),
        sampling=sampling,
        reproducibility="exact",
        init_image=InitImage(mean=mean, std=std, mask=mask),
    )
    [latents] = run_together(engine, [together])
    for image, seed in enumerate(together.pass_.seeds):
        init_image = InitImage(mean=mean[image : image + 1], std=std[image : image + 1], mask=mask)
        alone = replace(together, pass_=replace(together.pass_, seeds=(seed,)), init_image=init_image)
        assert np.array_equal(latents[image], _latents(engine, alone)[0])


def test_one_init_image_serves_all_images_of_a_request(engine: Engine, embeds: TextEmbeds) -> None:
    random = np.random.default_rng(0)
    mean, std = (random.random((1, 4, 8, 12), dtype=np.float32) for _ in range(2))
    sampling = Sampling(num_inference_steps=6, strength=0.5)
    request = _request(embeds, seeds=(3, 9), sampling=sampling, init_image=InitImage(mean=mean, std=std))
    repeated = InitImage(mean=mean.repeat(2, axis=0), std=std.repeat(2, axis=0))
    assert np.array_equal(_latents(engine, request), _latents(engine, replace(request, init_image=repeated)))


def test_inpainting_keeps_what_the_mask_leaves_out(engine: Engine, embeds: TextEmbeds) -> None:
    mean, mask = np.full((1, 4, 8, 12), 0.5, np.float32), np.zeros((8, 12), np.float32)
    mask[:, 6:] = 1
    init_image = InitImage(mean=mean, std=np.zeros_like(mean), mask=mask)
    for strength in (0.5, 1.0):
        sampling = Sampling(num_inference_steps=6, strength=strength)
        latents = _latents(engine, _request(embeds, sampling=sampling, init_image=init_image))
        assert np.array_equal(latents[..., :6], mean[..., :6])
        assert np.abs(latents[..., 6:] - mean[..., 6:]).max() > 0.05


def test_constructor_raises_the_error_of_loading() -> None:
    def load() -> Runners:
        raise ModelUnavailable("no files")

    with pytest.raises(ModelUnavailable, match="no files"):
        Engine(load, SETTINGS, place="here")
