"""The stages over handles, with stand-ins for Serve's handles."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectFetchTimedOutError,
    ObjectLostError,
    OwnerDiedError,
    RayActorError,
    RaySystemError,
    WorkerCrashedError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from atelier.core.control import Annotation
from atelier.core.denoising import DenoiseEvent, Heartbeat, StepEvent
from atelier.core.errors import AtelierError, NotSupported, QueueFull, ReplicaDied, ReplicaLeaving, ReplicaLost
from atelier.core.origin import Origin
from atelier.core.snapshot import Snapshot
from atelier.core.status import Holders
from atelier.pipeline.stages import ModelStage, Stages
from deployments import leaving
from deployments.annotator import Annotator
from deployments.autoencoder import Autoencoder
from deployments.denoiser import Denoiser
from deployments.handles import GraphHandles
from deployments.readiness import Readiness
from deployments.stages import CallLimits, HandleStages
from deployments.text_encoder import TextEncoder
from deployments.upscaler import Upscaler
from tests.unit.engine.requests import new_request

#: Longer than any answer here takes.
_LONG_S = 10.0
_LIMITS = CallLimits(stage_deadline_s=_LONG_S, stream_gap_s=_LONG_S)
#: The deployment behind each method of Stages.
_DEPLOYMENTS: dict[str, type] = {
    "encode_texts": TextEncoder,
    "encode_latents": Autoencoder,
    "decode_latents": Autoencoder,
    "annotate": Annotator,
    "denoise": Denoiser,
    "upscale": Upscaler,
}


_FOR_ALL = ("origin", "load_model", "unload_model", "metrics_text", "check_ready", "status")


class _Method:
    def __init__(self, call: Callable[..., Awaitable[object]]) -> None:
        self.remote = call


class _Handle:
    """A handle whose methods all call the same function."""

    def __init__(self, call: Callable[..., Awaitable[object]]) -> None:
        self._call = call
        self.is_initialized = self.prefers_local_replicas = False

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._call)

    def _init(self, *, _prefer_local_routing: bool) -> None:
        self.prefers_local_replicas = _prefer_local_routing

    def options(self, *, stream: bool) -> _Handle:
        assert stream
        return self


async def _answer(*_: object) -> None:
    return None


def _failing(error: Exception) -> Callable[..., Awaitable[object]]:
    async def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def handles() -> GraphHandles:
    return GraphHandles(**{field.name: _Handle(_answer) for field in fields(GraphHandles)})


def _stages(handles: GraphHandles) -> HandleStages:
    return HandleStages(handles, Readiness("atelier"), _LIMITS, own_metrics=lambda: "own_total 1\n")


def _as_protocol(stages: HandleStages) -> Stages:
    """Let mypy check the class against the Protocol."""
    return stages


def _parameters(method: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(method).parameters)


@pytest.mark.parametrize("name", [*_DEPLOYMENTS, *_FOR_ALL])
def test_handles_and_deployments_have_the_signatures_of_the_protocol(name: str) -> None:
    expected = _parameters(getattr(Stages, name))
    assert _parameters(getattr(HandleStages, name)) == expected
    if name in _DEPLOYMENTS:
        assert _parameters(getattr(_DEPLOYMENTS[name], name)) == expected


def test_every_method_of_the_protocol_is_checked() -> None:
    methods = {name for name, _ in inspect.getmembers(Stages, inspect.isfunction) if not name.startswith("_")}
    assert methods == {*_DEPLOYMENTS, *_FOR_ALL}


@pytest.mark.parametrize("stage", get_args(ModelStage))
async def test_each_stage_is_asked_for_its_own_origin(handles: GraphHandles, stage: ModelStage) -> None:
    asked = Origin("here", {stage: "hash"})

    async def answer() -> Origin:
        return asked

    handles = replace(handles, **{stage: _Handle(answer)})
    assert await _stages(handles).origin(stage) == asked


class _Held:
    """A response of Serve's `broadcast`: whether each replica of a deployment has a model."""

    def __init__(self, held: Sequence[bool]) -> None:
        self._held = list(held)

    async def results_async(self) -> list[bool]:
        return self._held


class _Broadcast:
    """A response of Serve's `broadcast`: the texts of some replicas, or none for a long time, even if cancelled."""

    def __init__(self, *answers: str | Exception, is_silent: bool = False) -> None:
        self._answers, self.is_silent = list(answers), is_silent
        self.is_cancelled = False

    async def results_async(self, **_: object) -> list[str | Exception]:
        if self.is_silent:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(_LONG_S)
            self.is_cancelled = True
            await asyncio.sleep(_LONG_S)
        return self._answers


@pytest.mark.parametrize(
    ("answers", "complete"),
    [
        (_Broadcast("a_total 1\n", "b_total 1\n"), 1),
        (_Broadcast("a_total 1\n", ActorDiedError()), 0),
        (_Broadcast(is_silent=True), 0),
    ],
    ids=["all", "one is lost", "one is silent"],
)
async def test_metrics_tell_whether_every_denoiser_answered(
    handles: GraphHandles, answers: _Broadcast, complete: int
) -> None:
    denoiser = _Handle(_answer)
    denoiser.broadcast = lambda _: answers  # type: ignore[attr-defined]
    async with asyncio.timeout(_LONG_S):
        text = await _stages(replace(handles, denoiser=denoiser)).metrics_text()
    assert f"atelier_metrics_complete {complete}.0" in text
    assert "own_total 1.0" in text
    assert ("a_total 1.0" in text) == (not answers.is_silent)
    await asyncio.sleep(0)
    assert answers.is_cancelled == answers.is_silent


async def test_models_are_loaded_and_unloaded_in_all_replicas_that_can_hold_them(handles: GraphHandles) -> None:
    calls: list[tuple[str, str, str]] = []

    def holder(deployment: str, *held: bool) -> _Handle:
        def broadcast(method: str, model: str) -> _Held:
            calls.append((deployment, method, model))
            return _Held(held)

        handle = _Handle(_answer)
        handle.broadcast = broadcast  # type: ignore[attr-defined]
        return handle

    stages = _stages(
        replace(
            handles,
            text_encoder=holder("text_encoder", True),
            denoiser=holder("denoiser", True, False),
            autoencoder=holder("autoencoder", False),
        )
    )
    assert await stages.load_model("a") == Holders(num_holders=2, num_replicas=4)
    assert await stages.unload_model("b") == Holders(num_holders=2, num_replicas=4)
    deployments = ("text_encoder", "denoiser", "autoencoder")
    assert calls == [
        *((name, "load_model", "a") for name in deployments),
        *((name, "unload_model", "b") for name in deployments),
    ]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), QueueFull),
        (NotSupported("no depth maps", param="kind"), NotSupported),
    ],
    ids=["queue full", "our own error"],
)
async def test_errors_of_a_call_become_ours(
    handles: GraphHandles, raised: Exception, expected: type[AtelierError]
) -> None:
    stages = _stages(replace(handles, annotator=_Handle(_failing(raised))))
    with pytest.raises(expected):
        await stages.annotate(Annotation("canny"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("died", [ActorDiedError(), ActorUnavailableError("", None), WorkerCrashedError()])
async def test_a_dead_replica_is_told_from_one_that_is_lost_in_another_way(
    handles: GraphHandles, died: Exception
) -> None:
    stages = _stages(replace(handles, denoiser=_Handle(_stream_of(died))))
    async with stages.denoise(new_request()) as events:
        with pytest.raises(ReplicaDied):
            await anext(events)
    stages = _stages(replace(handles, denoiser=_Handle(_stream_of(RayActorError()))))
    async with stages.denoise(new_request()) as events:
        with pytest.raises(ReplicaLost) as lost:
            await anext(events)
        assert lost.type is ReplicaLost


@pytest.mark.parametrize(
    "lost",
    [
        RayActorError(),
        NodeDiedError("gone"),
        ObjectLostError("", None, ""),
        OwnerDiedError("", None, ""),
        ObjectFetchTimedOutError("", None, ""),
        WorkerCrashedError(),
        RaySystemError("raylet"),
        DeploymentUnavailableError(DeploymentID("Annotator", "atelier")),
        AioRpcError(StatusCode.CANCELLED, Metadata(), Metadata()),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_gone_or_too_slow_is_a_lost_replica(handles: GraphHandles, lost: Exception) -> None:
    stages = _stages(replace(handles, annotator=_Handle(_failing(lost)), denoiser=_Handle(_stream_of(lost))))
    with pytest.raises(ReplicaLost):
        await stages.annotate(Annotation("canny"), None)  # type: ignore[arg-type]
    async with stages.denoise(new_request()) as events:
        with pytest.raises(ReplicaLost):
            await anext(events)


class _Stream:
    """A response of Serve's: some events, then an error, or silence if there is none."""

    def __init__(self, *events: object, error: Exception | None = None, is_silent: bool = False) -> None:
        self._events, self._error, self._is_silent = list(events), error, is_silent
        self.is_cancelled = False

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> object:
        if self._events:
            return self._events.pop(0)
        if self._error is not None:
            raise self._error
        if self._is_silent:
            await asyncio.sleep(_LONG_S)
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.is_cancelled = True


def _stream_of(error: Exception) -> Callable[..., Any]:
    return lambda _: _Stream(error=error)


async def test_a_stream_ends_with_its_events_and_is_cancelled(handles: GraphHandles) -> None:
    sent = [StepEvent(1, 2), StepEvent(2, 2)]
    stream = _Stream(*sent)
    stages = _stages(replace(handles, denoiser=_Handle(lambda _: stream)))  # type: ignore[arg-type,return-value]
    async with stages.denoise(new_request()) as events:
        assert [event async for event in events] == sent
        assert not stream.is_cancelled
    assert stream.is_cancelled


_SNAPSHOT = Snapshot(
    step=2, latents=np.zeros((1, 4, 8, 12), np.float32), denoised_1=None, denoised_2=None, origin=Origin("", {})
)


@pytest.mark.parametrize(
    ("sent", "num_received"),
    [
        ([StepEvent(1, 4), StepEvent(2, 4, snapshot=_SNAPSHOT), StepEvent(3, 4)], 2),
        ([StepEvent(1, 4), Heartbeat(), StepEvent(2, 4)], 3),
        ([Heartbeat(), StepEvent(1, 4)], 1),
    ],
    ids=["after a snapshot", "not without one", "before it has begun"],
)
async def test_a_request_leaves_its_replica_when_that_costs_no_step(
    handles: GraphHandles, sent: list[DenoiseEvent], num_received: int
) -> None:
    stream, request = _Stream(*sent), new_request()
    stages = _stages(replace(handles, denoiser=_Handle(lambda _: stream)))  # type: ignore[arg-type,return-value]
    received: list[DenoiseEvent] = []
    with nullcontext() if num_received == len(sent) else pytest.raises(ReplicaLeaving):
        async with stages.denoise(request) as events:
            leaving.ask([request.request_id, "another"])
            async for event in events:
                received += [event]
    assert received == sent[:num_received]
    assert stream.is_cancelled


@pytest.mark.parametrize(
    ("stream", "limits"),
    [
        (_Stream(is_silent=True), CallLimits(stage_deadline_s=0.02, stream_gap_s=_LONG_S)),
        (_Stream(1, is_silent=True), CallLimits(stage_deadline_s=_LONG_S, stream_gap_s=0.02)),
    ],
    ids=["before its first event", "after it"],
)
async def test_a_stream_that_is_silent_is_lost_and_cancelled(
    handles: GraphHandles, stream: _Stream, limits: CallLimits
) -> None:
    stages = _stages(replace(handles, denoiser=_Handle(lambda _: stream)))  # type: ignore[arg-type,return-value]
    stages.limits = limits
    with pytest.raises(ReplicaLost, match="in time"):
        async with asyncio.timeout(_LONG_S / 2), stages.denoise(new_request()) as events:
            [event async for event in events]
    assert stream.is_cancelled


@pytest.mark.parametrize("name", ["encode_texts", "encode_latents", "decode_latents", "annotate", "upscale"])
async def test_a_call_that_is_not_answered_in_time_is_lost_and_cancelled(name: str) -> None:
    cancelled = []

    async def hang(*_: object) -> None:
        try:
            await asyncio.sleep(_LONG_S)
        except asyncio.CancelledError:
            cancelled.append(name)
            raise

    stages = _stages(GraphHandles(**{field.name: _Handle(hang) for field in fields(GraphHandles)}))
    stages.limits = CallLimits(stage_deadline_s=0.02, stream_gap_s=_LONG_S)
    call = getattr(stages, name)
    with pytest.raises(ReplicaLost, match="in time"):
        await call(*_parameters(call))
    assert cancelled == [name]


def test_only_denoisers_are_chosen_without_regard_to_their_node(handles: GraphHandles) -> None:
    handles.prefer_own_node()
    local = {field.name: getattr(handles, field.name).prefers_local_replicas for field in fields(GraphHandles)}
    assert local == {name: name != "denoiser" for name in local}
