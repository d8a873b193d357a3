"""A request's calls to the stages, some of which lose their replica."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest

from atelier.core.control import Annotation
from atelier.core.denoising import (
    DecodedPreview,
    Denoised,
    DenoiseEvent,
    DenoiseRequest,
    Heartbeat,
    RequestId,
    StepEvent,
)
from atelier.core.errors import (
    AtelierError,
    GenerationFailed,
    PoisonRequest,
    QueueFull,
    ReplicaDied,
    ReplicaLeaving,
    ReplicaLost,
)
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.snapshot import Snapshot
from atelier.pipeline.request_stages import RequestStages
from atelier.pipeline.stages import Stages
from tests.records import new_record, request_stages
from tests.unit.engine.requests import new_request

_ANSWER = object()
_LATENTS = Denoised(np.zeros((1, 4, 8, 8), np.float32), Origin("place", {}), queue_s=0.25)


@dataclass
class _Stages:
    """Stages whose calls raise the given errors, one a call, and then succeed."""

    errors: list[AtelierError] = field(default_factory=list)
    #: Events of each stream, before its error or its end.
    streams: list[list[DenoiseEvent]] = field(default_factory=list)
    num_calls: int = 0
    requests: list[DenoiseRequest] = field(default_factory=list)
    num_closed: int = 0

    async def _call(self, *_: object) -> object:
        self.num_calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return _ANSWER

    encode_texts = encode_latents = annotate = decode_latents = upscale = _call

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
        self.requests.append(request)
        try:
            yield self._stream(self.streams.pop(0))
        finally:
            self.num_closed += 1

    async def _stream(self, events: list[DenoiseEvent]) -> AsyncIterator[DenoiseEvent]:
        for event in events:
            yield event
        if self.errors:
            raise self.errors.pop(0)


def _called(stages: _Stages, **settings: Any) -> RequestStages:
    return request_stages(cast(Stages, stages), **settings)


_CALLS: dict[str, Callable[[RequestStages], Any]] = {
    "encode_texts": lambda stages: stages.encode_texts("model", cast(Any, None), "fast"),
    "encode_latents": lambda stages: stages.encode_latents("model", cast(Any, None)),
    "annotate": lambda stages: stages.annotate(Annotation("canny"), cast(Any, None)),
    "decode_latents": lambda stages: stages.decode_latents("model", cast(Any, None)),
    "upscale": lambda stages: stages.upscale(None, cast(Any, None), Size(width=8, height=8), "fast"),
}


@pytest.mark.parametrize("stage", _CALLS)
async def test_a_call_is_repeated_twice_if_its_replica_is_lost(stage: str) -> None:
    record = new_record()
    stages = _Stages(errors=[ReplicaLost(), ReplicaLost()])
    assert await _CALLS[stage](_called(stages, record=record)) is _ANSWER
    assert (stages.num_calls, record.num_repeats, list(record.stage_s)) == (3, 2, [stage])
    stages = _Stages(errors=[ReplicaLost(), ReplicaLost(), ReplicaLost("the third")])
    with pytest.raises(ReplicaLost, match="the third"):
        await _CALLS[stage](_called(stages))


@pytest.mark.parametrize("error", [QueueFull(), GenerationFailed()])
async def test_a_call_that_fails_in_another_way_is_not_repeated(error: AtelierError) -> None:
    stages = _Stages(errors=[error])
    with pytest.raises(type(error)):
        await _CALLS["annotate"](_called(stages))
    assert stages.num_calls == 1


def _snapshot(step: int) -> Snapshot:
    latents = np.full((1, 4, 8, 12), step, np.float32)
    return Snapshot(step=step, latents=latents, denoised_1=None, denoised_2=None, origin=Origin("place", {}))


async def test_a_lost_denoising_request_goes_on_from_its_last_snapshot_and_reports_no_step_twice() -> None:
    record = new_record()
    steps = [StepEvent(step, 4, snapshot=_snapshot(step) if step < 3 else None) for step in (1, 2, 3, 4)]
    streams: list[list[DenoiseEvent]] = [[*steps[:3]], [steps[2]], [steps[1], Heartbeat(), *steps[2:], _LATENTS]]
    stages = _Stages(errors=[ReplicaLost(), ReplicaDied()], streams=streams)
    called = _called(stages, record=record, deadline_s=60)
    events = [event async for event in called.denoise(replace(new_request(), request_id=RequestId("req_1")))]
    assert events == [*steps, _LATENTS]
    assert [request.request_id for request in stages.requests] == ["req_1.1", "req_1.2", "req_1.3"]
    assert [request.is_repeated for request in stages.requests] == [False, True, True]
    assert [request.resume for request in stages.requests] == [None, steps[1].snapshot, steps[1].snapshot]
    assert all(request.snapshot_period_s == 1 for request in stages.requests)
    assert all(0 < (request.time_limit_s or 0) <= 60 for request in stages.requests)
    assert (record.num_repeats, record.stage_s["queue"], stages.num_closed) == (2, 0.25, 3)


async def test_a_preview_may_come_after_later_steps_and_is_not_reported_twice() -> None:
    previews = [DecodedPreview(step, np.full((1, 64, 96, 3), step, np.uint8)) for step in (1, 2, 3)]
    steps = [StepEvent(step, 4) for step in (1, 2, 3, 4)]
    again = DecodedPreview(1, np.zeros((1, 64, 96, 3), np.uint8))
    streams: list[list[DenoiseEvent]] = [
        [steps[0], steps[1], previews[0]],
        [steps[0], again, steps[1], previews[1], steps[2], steps[3], previews[2], _LATENTS],
    ]
    stages = _Stages(errors=[ReplicaLost()], streams=streams)
    events = [event async for event in _called(stages).denoise(new_request())]
    expected = [steps[0], steps[1], previews[0], previews[1], steps[2], steps[3], previews[2], _LATENTS]
    assert [id(event) for event in events] == [id(event) for event in expected]


async def test_a_denoising_request_is_repeated_twice_only() -> None:
    stages = _Stages(errors=[ReplicaLost(), ReplicaDied(), ReplicaLost("again")], streams=[[], [], []])
    with pytest.raises(ReplicaLost, match="again"):
        [event async for event in _called(stages).denoise(new_request())]
    assert (len(stages.requests), stages.num_closed) == (3, 3)


async def test_a_denoising_request_with_which_two_replicas_died_is_not_repeated() -> None:
    stages = _Stages(errors=[ReplicaDied(), ReplicaDied()], streams=[[], []])
    with pytest.raises(PoisonRequest):
        [event async for event in _called(stages).denoise(new_request())]
    assert (len(stages.requests), stages.num_closed) == (2, 2)


async def test_a_request_may_leave_as_many_replicas_as_are_stopped_and_no_loss_is_recorded() -> None:
    record = new_record()
    steps = [StepEvent(step, 6, snapshot=_snapshot(step)) for step in range(1, 6)]
    streams: list[list[DenoiseEvent]] = [[step] for step in steps]
    streams.append([_LATENTS])
    stages = _Stages(errors=[ReplicaLeaving() for _ in steps], streams=streams)
    events = [event async for event in _called(stages, record=record).denoise(new_request())]
    assert events == [*steps, _LATENTS]
    assert [request.resume for request in stages.requests] == [None, *(step.snapshot for step in steps)]
    assert record.num_repeats == 0


async def test_a_denoising_request_that_fails_is_not_repeated() -> None:
    stages = _Stages(errors=[GenerationFailed()], streams=[[]])
    with pytest.raises(GenerationFailed):
        [event async for event in _called(stages).denoise(new_request())]
    assert len(stages.requests) == 1


async def test_a_stream_that_ends_without_latents_is_lost() -> None:
    stages = _Stages(streams=[[StepEvent(1, 2)], [_LATENTS]])
    events = [event async for event in _called(stages).denoise(new_request())]
    assert events == [StepEvent(1, 2), _LATENTS]


async def test_a_request_without_deadline_has_no_time_limit() -> None:
    stages = _Stages(streams=[[_LATENTS]])
    assert [event async for event in _called(stages).denoise(new_request())]
    assert stages.requests[0].time_limit_s == math.inf


async def test_a_consumer_that_leaves_closes_the_stream() -> None:
    stages = _Stages(streams=[[StepEvent(1, 2), _LATENTS]])
    async with aclosing(_called(stages).denoise(new_request())) as events:
        assert await anext(events) == StepEvent(1, 2)
        assert stages.num_closed == 0
    assert stages.num_closed == 1


async def test_a_replica_that_is_lost_after_the_latents_is_no_loss() -> None:
    record = new_record()
    stages = _Stages(errors=[ReplicaLost()], streams=[[_LATENTS]])
    assert [event async for event in _called(stages, record=record).denoise(new_request())] == [_LATENTS]
    assert (record.num_repeats, len(stages.requests), stages.errors) == (0, 1, [])
