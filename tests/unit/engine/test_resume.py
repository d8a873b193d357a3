"""A request goes on from a snapshot in another engine, with the bits that it has without a break."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import Denoised, DenoiseRequest, InitImage, StepEvent
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility, Sampling
from atelier.core.snapshot import Snapshot
from atelier.engine.engine import Engine, StepReport
from atelier.engine.request import Event
from tests.engines import WAIT_S, Clock, new_engine

_NUM_STEPS = 4


@pytest.fixture
def engine(catalogue: Catalogue, reports: list[StepReport], clock: Clock) -> Iterator[Engine]:
    engine = new_engine(catalogue, observe=reports.append, now_s=clock)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def catalogue(small_catalogue: Catalogue) -> Catalogue:
    return small_catalogue.only(["small-sdxl"])


def _request(request_: DenoiseRequest, sampler: str, start: str, reproducibility: Reproducibility) -> DenoiseRequest:
    random = np.random.default_rng(0)
    mean, std = (random.random((1, 4, 8, 12), dtype=np.float32) for _ in range(2))
    mask = (random.random((8, 12)) > 0.5).astype(np.float32) if start == "mask" else None
    sampling = Sampling(num_inference_steps=_NUM_STEPS, sampler=sampler)
    if start != "noise":
        sampling = replace(sampling, num_inference_steps=2 * _NUM_STEPS, strength=0.5)
    return replace(
        request_,
        pass_=replace(request_.pass_, seeds=(7, 8), sampling=sampling, reproducibility=reproducibility),
        init_image=None if start == "noise" else InitImage(mean=mean, std=std, mask=mask),
        snapshot_period_s=0.0,
    )


def _run(engine: Engine, request: DenoiseRequest) -> tuple[list[Snapshot], Denoised]:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(request, events.put)
    snapshots: list[Snapshot] = []
    while not isinstance(event := events.get(timeout=WAIT_S), Denoised):
        assert isinstance(event, StepEvent)
        assert event.snapshot is not None
        snapshots.append(event.snapshot)
    return snapshots, event


@pytest.mark.parametrize(
    ("sampler", "start", "num_tensors"),
    [
        ("euler", "noise", 1),
        ("euler_a", "noise", 1),
        ("dpmpp_2m_sde", "mask", 2),
        ("unipc", "image", 3),
        ("heun", "mask", 2),
    ],
)
def test_a_request_that_goes_on_after_any_step_has_the_same_bits(
    engine: Engine,
    catalogue: Catalogue,
    request_: DenoiseRequest,
    reports: list[StepReport],
    sampler: str,
    start: str,
    num_tensors: int,
) -> None:
    request = _request(request_, sampler, start, "exact")
    snapshots, expected = _run(engine, request)
    assert [snapshot.step for snapshot in snapshots] == list(range(1, len(reports)))
    kept = [snapshots[0].latents, snapshots[0].denoised_1, snapshots[0].denoised_2]
    assert sum(tensor is not None for tensor in kept) == num_tensors
    other = new_engine(catalogue, observe=reports.append)
    for snapshot in snapshots:
        num_before = len(reports)
        _, resumed = _run(other, replace(request, resume=snapshot))
        assert len(reports) - num_before == len(snapshots) + 1 - snapshot.step
        assert np.array_equal(resumed.latents, expected.latents)
        assert resumed.origin == expected.origin
    other.close()


def _num_steps(engine: Engine, reports: list[StepReport], request: DenoiseRequest) -> tuple[int, Denoised]:
    num_before = len(reports)
    _, denoised = _run(engine, request)
    return len(reports) - num_before, denoised


def test_an_exact_request_goes_on_at_its_place_only_and_a_fast_one_says_where_it_was(
    engine: Engine, request_: DenoiseRequest, reports: list[StepReport]
) -> None:
    for reproducibility in ("exact", "fast"):
        request = _request(request_, "euler_a", "noise", reproducibility)
        snapshots, expected = _run(engine, request)
        elsewhere = replace(snapshots[0], origin=replace(snapshots[0].origin, place="there"))
        num_steps, denoised = _num_steps(engine, reports, replace(request, resume=elsewhere))
        assert np.array_equal(denoised.latents, expected.latents)
        places = {"exact": (_NUM_STEPS, "here"), "fast": (_NUM_STEPS - 1, "there+here")}
        assert (num_steps, denoised.origin.place) == places[reproducibility]


@pytest.mark.parametrize("change", [{"version": 0}, {"origin": Origin("here", {"small-sdxl/unet": "other"})}])
def test_a_snapshot_of_other_weights_or_of_another_version_is_not_used(
    engine: Engine, request_: DenoiseRequest, reports: list[StepReport], change: dict[str, object]
) -> None:
    request = _request(request_, "euler_a", "noise", "fast")
    snapshots, expected = _run(engine, request)
    changed = replace(snapshots[1], latents=snapshots[1].latents * 0, **change)  # type: ignore[arg-type]
    num_steps, denoised = _num_steps(engine, reports, replace(request, resume=changed))
    assert num_steps == _NUM_STEPS
    assert np.array_equal(denoised.latents, expected.latents)


def test_snapshots_come_as_often_as_they_are_asked_for(
    engine: Engine, request_: DenoiseRequest, clock: Clock
) -> None:
    events: queue.Queue[Event] = queue.Queue()

    def pass_time(event: Event) -> None:
        clock.now_s += 0.5
        events.put(event)

    request = _request(request_, "euler", "noise", "fast")
    sampling = replace(request.pass_.sampling, num_inference_steps=9)
    request = replace(request, pass_=replace(request.pass_, sampling=sampling), snapshot_period_s=1.0)
    engine.submit(replace(request, report_steps=True), pass_time)
    received = [events.get(timeout=WAIT_S) for _ in range(10)]
    with_snapshot = [isinstance(event, StepEvent) and event.snapshot is not None for event in received]
    assert with_snapshot == [False, False, True, False, True, False, True, False, False, False]


def test_a_snapshot_of_another_size_is_refused(request_: DenoiseRequest) -> None:
    latents = np.zeros((1, 4, 8, 8), np.float32)
    snapshot = Snapshot(step=1, latents=latents, denoised_1=None, denoised_2=None, origin=Origin("here", {}))
    with pytest.raises(ValueError, match="does not fit"):
        replace(request_, resume=snapshot)
