"""The state of the graph, from answers of Serve's controller and of replicas behind stand-ins for Serve's handles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.schema import DeploymentStatus, ReplicaState

from atelier.core.status import Device, Gpu, GraphStatus
from deployments import devices
from deployments.devices import Devices
from deployments.handles import GraphHandles
from deployments.readiness import Readiness
from tests.unit.deployments.controller import APP, Deployed, answer_of

_NAMES = ("TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler")
_LONG_S = 10.0
_GPU_A = Gpu(
    uuid="GPU-a",
    name="H100",
    total_bytes=80,
    used_bytes=30,
    free_bytes=50,
    utilization_percent=97,
    temperature_c=61,
)
_GPU_B = replace(_GPU_A, uuid="GPU-b", used_bytes=10, free_bytes=70)


def _device(replica: str, gpu: Gpu | None = None, *models: str) -> Device:
    return Device(replica=replica, node="node", gpu=gpu, models=models)


async def _silence() -> Device:
    await asyncio.sleep(_LONG_S)
    raise AssertionError


@dataclass
class _Result:
    """Serve's result of one replica."""

    answer: Device | Exception | None

    async def get_async(self) -> Device:
        if self.answer is None:
            return await _silence()
        if isinstance(self.answer, Exception):
            raise self.answer
        # Behind all errors.
        await asyncio.sleep(0.005)
        return self.answer


@dataclass
class _Broadcast:
    """Serve's response of a broadcast."""

    results: list[_Result] | Exception

    async def _fetch_replica_results_async(self) -> list[_Result]:
        if isinstance(self.results, Exception):
            raise self.results
        return self.results


class _Graph:
    """A graph whose replicas answer what `answers` says by their ids; None is silence."""

    def __init__(self, deployments: Mapping[str, Deployed], answers: Mapping[str, Device | Exception | None]) -> None:
        self.deployments, self.answers = dict(deployments), dict(answers)
        self.asked: list[str] = []
        self.failures: dict[str, Exception] = {}
        handles = GraphHandles(**dict(zip(_FIELDS, (_Handle(self, name) for name in _NAMES), strict=True)))
        self._devices = Devices(handles, Readiness(APP, lambda: answer_of(self.deployments)))

    async def status(self) -> GraphStatus:
        async with asyncio.timeout(_LONG_S / 2):
            return await self._devices.status()


_FIELDS = ("text_encoder", "annotator", "denoiser", "autoencoder", "upscaler")


class _Handle:
    def __init__(self, graph: _Graph, name: str) -> None:
        self._graph, self.deployment_name = graph, name

    def broadcast(self, method: str) -> _Broadcast:
        assert method == "device"
        self._graph.asked.append(self.deployment_name)
        if error := self._graph.failures.get(self.deployment_name):
            return _Broadcast(error)
        replicas = self._graph.deployments[self.deployment_name].replicas
        return _Broadcast([_Result(self._graph.answers[one]) for one in replicas if one in self._graph.answers])


def _running(*replicas: str, num_wanted: int | None = None) -> Deployed:
    states = dict.fromkeys(replicas, ReplicaState.RUNNING)
    return Deployed(DeploymentStatus.HEALTHY, states, len(replicas) if num_wanted is None else num_wanted)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_TIMEOUT_S", 0.05)


@pytest.fixture
def always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every call ask again."""
    for module in ("devices", "readiness"):
        monkeypatch.setattr(f"deployments.{module}._MAX_AGE_S", -1.0)


async def test_gpus_that_replicas_share_are_there_once() -> None:
    graph = _Graph(
        {"TextEncoder": _running("t"), "Denoiser": _running("d1", "d2"), "Autoencoder": _running("v1", "v2")},
        {
            "t": _device("t", _GPU_A, "sdxl"),
            "d1": _device("d1", _GPU_A, "sdxl"),
            "d2": _device("d2", _GPU_B, "sdxl"),
            "v1": _device("v1", _GPU_B, "tiny", "sdxl"),
            "v2": _device("v2", _GPU_B, "tiny", "sdxl"),
        },
    )
    status = await graph.status()
    assert [(one.gpu, one.node, one.deployments) for one in status.gpus] == [
        (_GPU_A, "node", ("Denoiser", "TextEncoder")),
        (_GPU_B, "node", ("Autoencoder", "Denoiser")),
    ]
    assert status.models == ("sdxl", "tiny")
    assert status.backend == "cuda"


async def test_a_graph_without_gpus_says_so() -> None:
    status = await _Graph({"Denoiser": _running("d")}, {"d": _device("d", None, "tiny")}).status()
    assert (status.backend, status.gpus, status.models) == ("none", (), ("tiny",))


@pytest.mark.parametrize(
    ("deployed", "expected", "num_running"),
    [
        (_running("a", "b", num_wanted=3), "running", 2),
        (Deployed(DeploymentStatus.UPDATING, {"a": ReplicaState.STARTING}), "starting", 0),
        (Deployed(DeploymentStatus.UNHEALTHY, {"a": ReplicaState.RUNNING}), "unhealthy", 1),
        (Deployed(DeploymentStatus.DEPLOY_FAILED, {}), "unhealthy", 0),
        (_running(num_wanted=0), "scaled_to_zero", 0),
        (Deployed(DeploymentStatus.DOWNSCALING, {"a": ReplicaState.STOPPING}, 0), "scaled_to_zero", 0),
    ],
)
async def test_a_deployment_has_the_state_that_the_controller_reports(
    deployed: Deployed, expected: str, num_running: int
) -> None:
    graph = _Graph({"Worker": deployed._replace(message="Why")}, {})
    [service] = (await graph.status()).services
    assert (service.name, service.status, service.message) == ("Worker", expected, "Why")
    assert (service.num_running, service.num_wanted) == (num_running, deployed.num_wanted)
    assert (await graph.status()).is_ok == (expected in ("running", "scaled_to_zero"))


async def test_a_deployment_that_is_scaled_to_zero_is_not_woken() -> None:
    asleep = _running(num_wanted=0)
    starting = Deployed(DeploymentStatus.UPDATING, {"s": ReplicaState.STARTING})
    graph = _Graph(
        {"Denoiser": _running("d"), "Upscaler": asleep, "Annotator": starting}, {"d": _device("d"), "s": _device("s")}
    )
    status = await graph.status()
    assert graph.asked == ["Denoiser"]
    assert status.is_complete


async def test_a_replica_that_does_not_answer_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    graph = _Graph(
        {"Denoiser": _running("d1", "d2"), "Upscaler": _running("u")},
        {"d1": None, "d2": _device("d2", _GPU_B), "u": _device("u", _GPU_A)},
    )
    with caplog.at_level(logging.WARNING):
        status = await graph.status()
    assert [one.gpu for one in status.gpus] == [_GPU_A, _GPU_B]
    assert [(one.name, one.num_silent) for one in status.services] == [("Denoiser", 1), ("Upscaler", 0)]
    assert status.is_ok
    assert not status.is_complete
    assert "Denoiser did not say its device within" in caplog.text


async def test_a_graph_of_silent_replicas_has_an_unknown_backend() -> None:
    status = await _Graph({"Denoiser": _running("d")}, {"d": None}).status()
    assert (status.backend, status.gpus) == ("unknown", ())


@pytest.mark.usefixtures("always_new")
async def test_the_gpu_of_a_replica_that_falls_silent_stays_without_numbers() -> None:
    graph = _Graph({"Denoiser": _running("d")}, {"d": _device("d", _GPU_A, "sdxl")})
    await graph.status()
    graph.answers["d"] = None
    status = await graph.status()
    [used] = status.gpus
    assert used.gpu == Gpu(
        uuid="GPU-a",
        name="H100",
        total_bytes=80,
        used_bytes=None,
        free_bytes=None,
        utilization_percent=None,
        temperature_c=None,
    )
    assert status.models == ("sdxl",)
    assert [one.num_silent for one in status.services] == [1]


@pytest.mark.usefixtures("always_new")
async def test_a_silent_replica_takes_no_numbers_from_its_neighbour_on_the_gpu() -> None:
    graph = _Graph(
        {"Annotator": _running("a"), "Denoiser": _running("d")},
        {"a": _device("a", _GPU_A), "d": _device("d", _GPU_A)},
    )
    await graph.status()
    graph.answers["a"] = None
    [used] = (await graph.status()).gpus
    assert (used.gpu, used.deployments) == (_GPU_A, ("Annotator", "Denoiser"))


@pytest.mark.usefixtures("always_new")
async def test_the_gpu_of_a_replica_that_is_gone_is_gone() -> None:
    graph = _Graph({"Denoiser": _running("d")}, {"d": _device("d", _GPU_A)})
    await graph.status()
    graph.deployments["Denoiser"] = _running("e")
    graph.answers["e"] = _device("e", _GPU_B)
    assert [one.gpu for one in (await graph.status()).gpus] == [_GPU_B]


async def test_an_error_of_a_replica_is_logged_and_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    graph = _Graph({"Denoiser": _running("d1", "d2")}, {"d1": ActorDiedError(), "d2": _device("d2", _GPU_B)})
    with caplog.at_level(logging.WARNING):
        status = await graph.status()
    assert [one.gpu for one in status.gpus] == [_GPU_B]
    assert [one.num_silent for one in status.services] == [1]
    _assert_logged(caplog, "a replica of Denoiser did not say its device")


async def test_a_deployment_that_cannot_be_asked_is_logged_and_hides_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    graph = _Graph({"Denoiser": _running("d"), "Upscaler": _running("u")}, {"u": _device("u", _GPU_A)})
    graph.failures["Denoiser"] = DeploymentUnavailableError(DeploymentID("Denoiser", APP))
    with caplog.at_level(logging.WARNING):
        status = await graph.status()
    assert [one.gpu for one in status.gpus] == [_GPU_A]
    assert [(one.name, one.num_silent) for one in status.services] == [("Denoiser", 1), ("Upscaler", 0)]
    _assert_logged(caplog, "Denoiser could not be asked")


def _assert_logged(caplog: pytest.LogCaptureFixture, message: str) -> None:
    [record] = caplog.records
    assert message in record.getMessage()
    assert record.exc_info is not None


async def test_clients_that_ask_together_or_soon_after_share_the_answers() -> None:
    graph = _Graph({"Denoiser": _running("d")}, {"d": _device("d")})
    await asyncio.gather(*(graph.status() for _ in range(20)))
    await graph.status()
    assert graph.asked == ["Denoiser"]


async def test_a_graph_that_the_controller_does_not_know_is_unknown() -> None:
    status = await _Graph({}, {}).status()
    assert status == GraphStatus(services=(), gpus=(), models=(), is_complete=False)
    assert (status.backend, status.is_ok) == ("unknown", False)


async def test_deployments_without_models_are_counted_but_not_asked() -> None:
    names = ("Router", "ControlNet", "Denoiser")
    graph = _Graph({name: _running(name) for name in names}, {"Denoiser": _device("Denoiser")})
    status = await graph.status()
    assert graph.asked == ["Denoiser"]
    assert status.is_complete
    assert [(one.name, one.num_silent) for one in status.services] == [(name, 0) for name in names]
