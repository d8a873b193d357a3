"""A device that runs out of memory gets smaller calls; one that has failed for good takes the engine with it."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.errors import GenerationFailed, ReplicaLost
from atelier.engine.engine import Engine
from atelier.engine.packing import Packed
from atelier.engine.request import Event, RunningRequest
from atelier.engine.runner import Runner
from tests.engines import WAIT_S, held_at_first_step, new_engine, run_together


@pytest.fixture
def engine(small_catalogue: Catalogue) -> Iterator[Engine]:
    engine = new_engine(small_catalogue.only(["small-sdxl"]))
    yield engine
    engine.close()


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows in calls, in a process whose memory has room for four rows in a call."""
    step, tried = Runner.step, list[int]()

    def step_in_small_memory(runner: Runner, requests: Sequence[RunningRequest], packed: Packed) -> None:
        tried.append(max(len(call.image) for call in packed.calls))
        if tried[-1] > 4:
            raise torch.OutOfMemoryError("too many rows")
        step(runner, requests, packed)

    monkeypatch.setattr(Runner, "step", step_in_small_memory)
    return tried


def _named(request: DenoiseRequest, count: int, **changes: object) -> list[DenoiseRequest]:
    pass_ = replace(request.pass_, **changes)  # type: ignore[arg-type]
    return [
        replace(request, request_id=RequestId(f"req_{seed}"), pass_=replace(pass_, seeds=(seed,)))
        for seed in range(count)
    ]


def _ends_together(engine: Engine, requests: Sequence[DenoiseRequest]) -> list[Event]:
    ends: list[queue.Queue[Event]] = [queue.Queue() for _ in requests]
    with held_at_first_step(engine, replace(requests[0], request_id=RequestId("first"))):
        for request, events in zip(requests, ends, strict=True):
            engine.submit(request, events.put)
    return [events.get(timeout=WAIT_S) for events in ends]


def test_steps_that_memory_has_no_room_for_are_taken_in_smaller_calls(
    engine: Engine, request_: DenoiseRequest, widths: list[int]
) -> None:
    requests = _named(request_, 6)
    alone = [run_together(engine, [request])[0] for request in requests]
    for event, expected in zip(_ends_together(engine, requests), alone, strict=True):
        assert isinstance(event, Denoised)
        assert np.abs(event.latents - expected).max() < 5e-4 * np.abs(expected).max()
    failed = [width for width in widths if width > 4]
    assert failed == sorted(failed, reverse=True)
    widths.clear()
    assert all(isinstance(event, Denoised) for event in _ends_together(engine, requests))
    assert max(widths) <= 4, "a later batch begins with calls that fit"


def test_calls_of_fixed_width_that_memory_has_no_room_for_fail_one_request_at_a_time(
    engine: Engine, request_: DenoiseRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Runner.step

    def fail_for_seed_1(runner: Runner, requests: Sequence[RunningRequest], packed: Packed) -> None:
        if any(request.request.pass_.seeds == (1,) for request in requests):
            raise torch.OutOfMemoryError("too much")
        step(runner, requests, packed)

    monkeypatch.setattr(Runner, "step", fail_for_seed_1)
    events = _ends_together(engine, _named(request_, 3, reproducibility="exact"))
    assert [type(event) for event in events] == [Denoised, GenerationFailed, Denoised]


@pytest.mark.parametrize("method", ["step", "begin", "prompts"])
def test_a_device_that_has_failed_loses_every_request_at_once(
    engine: Engine, request_: DenoiseRequest, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = getattr(Runner, method)

    def fail_for_seed_1(runner: Runner, given: Any, *others: object) -> object:
        of = given if isinstance(given, Sequence) else [given]
        if any(request.request.pass_.seeds == (1,) for request in of):
            raise torch.AcceleratorError("illegal memory access")
        return failing(runner, given, *others)

    monkeypatch.setattr(Runner, method, fail_for_seed_1)
    assert [type(event) for event in _ends_together(engine, _named(request_, 3))] == [ReplicaLost] * 3
    with pytest.raises(RuntimeError, match="the engine's thread has ended"):
        engine.check(stall_s=WAIT_S)
    with pytest.raises(ReplicaLost):
        engine.submit(request_, lambda _: None)
