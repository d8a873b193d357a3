"""Serve routes requests with LoRAs to a replica that has them, and to others once that one is busy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from ray import serve
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from atelier.core.adapters import Lora
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.geometry import Size
from deployments.routing import ROUTING
from tests.integration.conftest import Graph
from tests.unit.engine.requests import new_request

pytestmark = pytest.mark.slow

_NUM_REPLICAS = 3


class _Replica:
    """Keeps the LoRAs of requests without previews in memory. One that reports steps lasts until `finish`."""

    def __init__(self) -> None:
        self._loras: set[str] = set()
        self._finished = asyncio.Event()
        self._num_waiting = 0

    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[str]:
        if not request.num_previews:
            self._loras |= {lora.id for lora in request.pass_.loras}
        if request.report_steps:
            self._num_waiting += 1
            await self._finished.wait()
        yield serve.get_replica_context().replica_id.unique_id

    def num_waiting(self) -> int:
        return self._num_waiting

    def finish(self) -> None:
        self._finished.set()

    def forget(self) -> None:
        self._loras, self._finished, self._num_waiting = set(), asyncio.Event(), 0

    def record_routing_stats(self) -> dict[str, list[str]]:
        return {"loras": sorted(self._loras)}


@pytest.fixture(scope="module")
def replicas(deployed: Graph) -> Iterator[DeploymentHandle]:  # noqa: ARG001
    deployment = serve.deployment(
        _Replica,
        num_replicas=_NUM_REPLICAS,
        max_ongoing_requests=100,
        request_router_config=ROUTING,
        ray_actor_options={"num_cpus": 0},
    )
    yield serve.run(deployment.bind(), name="routing", route_prefix=None)
    serve.delete("routing")


@pytest.fixture
def handle(replicas: DeploymentHandle) -> DeploymentHandle:
    replicas.broadcast("forget").results(timeout_s=30)
    return replicas


def _request(lora: str, *, lasts: bool = False) -> DenoiseRequest:
    return replace(new_request(loras=(Lora(lora, 1.0),)), report_steps=lasts, num_previews=1)


def _send(handle: DeploymentHandle, request: DenoiseRequest) -> DeploymentResponseGenerator:
    return handle.options(stream=True).denoise.remote(request)


def _replica(response: DeploymentResponseGenerator) -> str:
    """Wait for the end of a request. Returns the replica that answered it."""
    [replica] = response
    return str(replica)


def _replicas(handle: DeploymentHandle, lora: str, num: int) -> Counter[str]:
    """How many of so many requests, one after the other, each replica answered."""
    return Counter(_replica(_send(handle, _request(lora))) for _ in range(num))


def _keep(handle: DeploymentHandle, lora: str) -> str:
    """Let one replica keep the LoRA, and return it when its report has arrived: a dozen in a row reach it."""
    keep = replace(_request(lora), num_previews=0)
    holder = _replica(_send(handle, keep))
    while _replicas(handle, lora, 12) != {holder: 12}:
        pass
    return holder


def test_a_lora_stays_on_its_replica_until_that_one_is_busy(handle: DeploymentHandle) -> None:
    holders = {lora: _keep(handle, lora) for lora in ("a", "b")}
    assert _replicas(handle, "a", 30) == {holders["a"]: 30}
    assert _replicas(handle, "b", 30) == {holders["b"]: 30}
    lasting = [_send(handle, _request("a", lasts=True)) for _ in range(30)]
    while sum(handle.broadcast("num_waiting").results(timeout_s=30)) < len(lasting):
        pass
    handle.broadcast("finish").results(timeout_s=30)
    [(busiest, _), *others] = Counter(map(_replica, lasting)).most_common()
    assert busiest == holders["a"]
    assert len(others) == _NUM_REPLICAS - 1, "the others helped once it was busy"


def test_a_repeated_request_goes_where_it_has_not_been(handle: DeploymentHandle) -> None:
    _keep(handle, "a")
    for number in range(5):
        been_in = set()
        for attempt in range(_NUM_REPLICAS):
            request = replace(_request("a"), request_id=RequestId(f"{number}.{attempt}"), is_repeated=attempt > 0)
            been_in.add(_replica(_send(handle, request)))
        assert len(been_in) == _NUM_REPLICAS


def test_requests_that_come_together_go_to_different_replicas_and_equal_sizes_meet(handle: DeploymentHandle) -> None:
    """Two of each of three sizes, all in progress at once: every replica has one size."""
    sizes = [Size(width=8 * side, height=64) for side in (8, 16, 24)]
    requests = [replace(new_request(size=size), report_steps=True) for size in sizes]
    lasting = [[_send(handle, request) for request in requests] for _ in range(2)]
    while sum(handle.broadcast("num_waiting").results(timeout_s=30)) < 2 * len(sizes):
        pass
    handle.broadcast("finish").results(timeout_s=30)
    places = [[_replica(response) for response in responses] for responses in lasting]
    assert len(set(places[0])) == _NUM_REPLICAS
    assert places[1] == places[0]
