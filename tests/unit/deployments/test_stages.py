"""The stages over handles, with stand-ins for Serve's handles."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
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
from deployments.stages import HandleStages
from deployments.text_encoder import TextEncoder
from deployments.upscaler import Upscaler

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


async def _hang(*_: object) -> None:
    await asyncio.Event().wait()


def _failing(error: Exception) -> Callable[..., Awaitable[object]]:
    async def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def handles() -> GraphHandles:
    return GraphHandles(**{field.name: _Handle(_answer) for field in fields(GraphHandles)})


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


async def test_a_graph_is_ready_when_every_deployment_answers(handles: GraphHandles) -> None:
    assert await HandleStages(handles).check_ready()


@pytest.mark.parametrize("lost", [field.name for field in fields(GraphHandles)])
async def test_a_graph_is_not_ready_when_a_stage_is_lost(handles: GraphHandles, lost: str) -> None:
    handle = _Handle(_failing(ActorDiedError()))
    assert not await HandleStages(replace(handles, **{lost: handle})).check_ready()


async def test_a_graph_is_not_ready_when_a_stage_is_silent(
    handles: GraphHandles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.stages._READY_TIMEOUT_S", 0.02)
    assert not await HandleStages(replace(handles, denoiser=_Handle(_hang))).check_ready()


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
    stages = HandleStages(replace(handles, annotator=_Handle(_failing(raised))))
    with pytest.raises(expected):
        await stages.annotate(Annotation("canny"), None)  # type: ignore[arg-type]
