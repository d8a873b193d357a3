"""The stages over handles, with stand-ins for Serve's handles."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError
from ray.serve.exceptions import BackPressureError

from atelier.core.control import Annotation
from atelier.core.errors import AtelierError, NotSupported, QueueFull, ReplicaLost
from atelier.pipeline.stages import Stages
from deployments.annotator import Annotator
from deployments.autoencoder import Autoencoder
from deployments.denoiser import Denoiser
from deployments.handles import GraphHandles
from deployments.readiness import Readiness
from deployments.stages import HandleStages
from deployments.text_encoder import TextEncoder
from deployments.upscaler import Upscaler

#: Longer than any answer here takes.
_LONG_S = 10.0
#: The deployment behind each method of Stages.
_DEPLOYMENTS: dict[str, type] = {
    "encode_texts": TextEncoder,
    "encode_latents": Autoencoder,
    "decode_latents": Autoencoder,
    "annotate": Annotator,
    "denoise": Denoiser,
    "upscale": Upscaler,
}


class _Method:
    def __init__(self, call: Callable[..., Awaitable[object]]) -> None:
        self.remote = call


class _Handle:
    """A handle whose methods all call the same function."""

    def __init__(self, call: Callable[..., Awaitable[object]]) -> None:
        self._call = call

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._call)


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
    return HandleStages(handles, Readiness("atelier"))


def _as_protocol(stages: HandleStages) -> Stages:
    """Let mypy check the class against the Protocol."""
    return stages


def _parameters(method: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(method).parameters)


@pytest.mark.parametrize("name", [*_DEPLOYMENTS, "metrics_text", "check_ready"])
def test_handles_and_deployments_have_the_signatures_of_the_protocol(name: str) -> None:
    expected = _parameters(getattr(Stages, name))
    assert _parameters(getattr(HandleStages, name)) == expected
    if name in _DEPLOYMENTS:
        assert _parameters(getattr(_DEPLOYMENTS[name], name)) == expected


def test_every_method_of_the_protocol_is_checked() -> None:
    methods = {name for name, _ in inspect.getmembers(Stages, inspect.isfunction) if not name.startswith("_")}
    assert methods == {*_DEPLOYMENTS, "metrics_text", "check_ready"}


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
    assert ("a_total 1.0" in text) == (not answers.is_silent)
    await asyncio.sleep(0)
    assert answers.is_cancelled == answers.is_silent


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RayActorError(), ReplicaLost),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), QueueFull),
        (NotSupported("no depth maps", param="kind"), NotSupported),
    ],
    ids=["replica lost", "queue full", "our own error"],
)
async def test_errors_of_a_call_become_ours(
    handles: GraphHandles, raised: Exception, expected: type[AtelierError]
) -> None:
    stages = _stages(replace(handles, annotator=_Handle(_failing(raised))))
    with pytest.raises(expected):
        await stages.annotate(Annotation("canny"), None)  # type: ignore[arg-type]
