"""Readiness from the status that Serve's controller reports; the status has Serve's own classes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextvars import ContextVar

import pytest
from ray.exceptions import RaySystemError
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ReplicaState,
    ServeStatus,
)

from deployments.readiness import Readiness

request: ContextVar[str | None] = ContextVar("request", default=None)

_Deployments = Mapping[str, tuple[DeploymentStatus, Mapping[ReplicaState, int]]]
_RUNNING: _Deployments = {
    "Router": (DeploymentStatus.HEALTHY, {ReplicaState.RUNNING: 1}),
    "Denoiser": (DeploymentStatus.UPSCALING, {ReplicaState.RUNNING: 1, ReplicaState.STARTING: 2}),
    "Upscaler": (DeploymentStatus.HEALTHY, {}),
}


def _status(deployments: _Deployments) -> ServeStatus:
    overviews = {
        name: DeploymentStatusOverview(status, DeploymentStatusTrigger.UNSPECIFIED, dict(states), "")
        for name, (status, states) in deployments.items()
    }
    application = ApplicationStatusOverview(ApplicationStatus.RUNNING, "", 0.0, overviews)
    return ServeStatus(applications={"atelier": application})


async def _is_ready(deployments: _Deployments) -> bool:
    return await Readiness("atelier", lambda: _status(deployments)).is_ready()


async def test_a_graph_is_ready_with_replicas_of_all_that_is_awake() -> None:
    assert await _is_ready(_RUNNING)


@pytest.mark.parametrize(
    "lost",
    [
        (DeploymentStatus.UPDATING, {}),
        (DeploymentStatus.UPDATING, {ReplicaState.STARTING: 1}),
        (DeploymentStatus.HEALTHY, {ReplicaState.STARTING: 1}),
        (DeploymentStatus.UNHEALTHY, {ReplicaState.STOPPING: 1}),
    ],
)
async def test_a_graph_is_not_ready_without_a_running_replica(
    lost: tuple[DeploymentStatus, Mapping[ReplicaState, int]],
) -> None:
    assert not await _is_ready({**_RUNNING, "Denoiser": lost})


async def test_another_application_does_not_count() -> None:
    assert not await Readiness("another", lambda: _status(_RUNNING)).is_ready()


async def test_the_last_answer_holds_while_the_controller_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.readiness._MAX_AGE_S", -1.0)
    errors: list[Exception] = []

    def status() -> ServeStatus:
        if errors:
            raise errors[0]
        return _status(_RUNNING)

    readiness = Readiness("atelier", status)
    assert await readiness.is_ready()
    errors.append(RaySystemError("gone"))
    assert await readiness.is_ready()


async def test_the_last_answer_holds_while_the_controller_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.readiness._TIMEOUT_S", 0.01)
    may_answer = threading.Event()

    def status() -> ServeStatus:
        may_answer.wait(30)
        return _status(_RUNNING)

    readiness = Readiness("atelier", status)
    assert not await readiness.is_ready()
    may_answer.set()
    monkeypatch.setattr("deployments.readiness._TIMEOUT_S", 30.0)
    assert await readiness.is_ready()


async def test_clients_that_ask_together_share_an_answer() -> None:
    asked = []

    def status() -> ServeStatus:
        asked.append(1)
        return _status(_RUNNING)

    readiness = Readiness("atelier", status)
    assert all(await asyncio.gather(*(readiness.is_ready() for _ in range(20))))
    assert len(asked) == 1


async def test_the_question_does_not_belong_to_the_request_that_asks() -> None:
    """Serve would cancel it with that request."""
    request.set("the first")
    seen = []

    def status() -> ServeStatus:
        seen.append(request.get())
        return _status(_RUNNING)

    assert await Readiness("atelier", status).is_ready()
    assert seen == [None]
