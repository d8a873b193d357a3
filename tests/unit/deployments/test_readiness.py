"""Readiness from the status that Serve's controller reports; the status has Serve's own classes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextvars import ContextVar

import pytest
from ray.exceptions import RaySystemError
from ray.serve.schema import DeploymentStatus, ReplicaState, ServeInstanceDetails

from deployments.readiness import Readiness
from tests.unit.deployments.controller import APP, Deployed, answer_of

request: ContextVar[str | None] = ContextVar("request", default=None)

_RUNNING = {
    "Router": Deployed(DeploymentStatus.HEALTHY, {"r": ReplicaState.RUNNING}),
    "Denoiser": Deployed(
        DeploymentStatus.UPSCALING,
        {"a": ReplicaState.RUNNING, "b": ReplicaState.STARTING, "c": ReplicaState.STARTING},
    ),
    "Upscaler": Deployed(DeploymentStatus.HEALTHY, {}, num_wanted=0),
}


async def _is_ready(deployments: Mapping[str, Deployed]) -> bool:
    return await Readiness(APP, lambda: answer_of(deployments)).is_ready()


async def test_a_graph_is_ready_with_replicas_of_all_that_is_awake() -> None:
    assert await _is_ready(_RUNNING)


@pytest.mark.parametrize(
    "lost",
    [
        Deployed(DeploymentStatus.UPDATING, {}),
        Deployed(DeploymentStatus.UPDATING, {"a": ReplicaState.STARTING}),
        Deployed(DeploymentStatus.HEALTHY, {"a": ReplicaState.STARTING}),
        Deployed(DeploymentStatus.UNHEALTHY, {"a": ReplicaState.STOPPING}),
    ],
)
async def test_a_graph_is_not_ready_without_a_running_replica(lost: Deployed) -> None:
    assert not await _is_ready({**_RUNNING, "Denoiser": lost})


async def test_another_application_does_not_count() -> None:
    assert not await Readiness("another", lambda: answer_of(_RUNNING)).is_ready()


async def test_the_last_answer_holds_while_the_controller_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.readiness._MAX_AGE_S", -1.0)
    errors: list[Exception] = []

    def status() -> ServeInstanceDetails:
        if errors:
            raise errors[0]
        return answer_of(_RUNNING)

    readiness = Readiness(APP, status)
    assert await readiness.is_ready()
    errors.append(RaySystemError("gone"))
    assert await readiness.is_ready()


async def test_the_last_answer_holds_while_the_controller_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.readiness._TIMEOUT_S", 0.01)
    may_answer = threading.Event()

    def status() -> ServeInstanceDetails:
        may_answer.wait(30)
        return answer_of(_RUNNING)

    readiness = Readiness(APP, status)
    async with asyncio.timeout(2):
        assert not await readiness.is_ready()
    may_answer.set()
    monkeypatch.setattr("deployments.readiness._TIMEOUT_S", 30.0)
    assert await readiness.is_ready()


async def test_clients_that_ask_together_share_an_answer() -> None:
    asked = []

    def status() -> ServeInstanceDetails:
        asked.append(1)
        return answer_of(_RUNNING)

    readiness = Readiness(APP, status)
    assert all(await asyncio.gather(*(readiness.is_ready() for _ in range(20))))
    assert len(asked) == 1


async def test_the_question_does_not_belong_to_the_request_that_asks() -> None:
    """Serve would cancel it with that request."""
    request.set("the first")
    seen = []

    def status() -> ServeInstanceDetails:
        seen.append(request.get())
        return answer_of(_RUNNING)

    assert await Readiness(APP, status).is_ready()
    assert seen == [None]
