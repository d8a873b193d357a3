"""Serve routes requests with LoRAs to a replica that has them, and to others once that one is busy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from ray import serve
from ray.serve.handle import DeploymentHandle

from atelier.core.adapters import Lora
from atelier.core.denoising import DenoiseRequest
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

    async def denoise(self, request: DenoiseRequest) -> str:
        if not request.num_previews:
            self._loras |= {lora.id for lora in request.pass_.loras}
        if request.report_steps:
            await self._finished.wait()
        replica: str = serve.get_replica_context().replica_id.unique_id
        return replica

    def finish(self) -> None:
        self._finished.set()

    def record_routing_stats(self) -> dict[str, list[str]]:
        return {"loras": sorted(self._loras)}


@pytest.fixture
def handle(deployed: Graph) -> Iterator[DeploymentHandle]:  # noqa: ARG001
    deployment = serve.deployment(
        _Replica,
        num_replicas=_NUM_REPLICAS,
        max_ongoing_requests=100,
        request_router_config=ROUTING,
        ray_actor_options={"num_cpus": 0},
    )
    yield serve.run(deployment.bind(), name="routing", route_prefix=None)
    serve.delete("routing")


def _request(lora: str, *, lasts: bool = False) -> DenoiseRequest:
    return replace(new_request(loras=(Lora(lora, 1.0),)), report_steps=lasts, num_previews=1)


def _replicas(handle: DeploymentHandle, lora: str, num: int) -> Counter[str]:
    """How many of so many requests, one after the other, each replica answered."""
    return Counter(handle.denoise.remote(_request(lora)).result(timeout_s=30) for _ in range(num))


def _keep(handle: DeploymentHandle, lora: str) -> str:
    """Let one replica keep the LoRA, and return it when its report has arrived: a dozen in a row reach it."""
    keep = replace(_request(lora), num_previews=0)
    holder: str = handle.denoise.remote(keep).result(timeout_s=30)
    while _replicas(handle, lora, 12) != {holder: 12}:
        pass
    return holder


def test_a_lora_stays_on_its_replica_until_that_one_is_busy(handle: DeploymentHandle) -> None:
    holders = {lora: _keep(handle, lora) for lora in ("a", "b")}
    assert _replicas(handle, "a", 30) == {holders["a"]: 30}
    assert _replicas(handle, "b", 30) == {holders["b"]: 30}
    repeated = replace(_request("a"), is_repeated=True)
    assert len({handle.denoise.remote(repeated).result(timeout_s=30) for _ in range(30)}) > 1
    lasting = [handle.denoise.remote(_request("a", lasts=True)) for _ in range(30)]
    # Short requests of the same LoRA reach other replicas while its own has so many more.
    while len(_replicas(handle, "a", 12)) == 1:
        pass
    handle.broadcast("finish").results(timeout_s=30)
    for response in lasting:
        response.result(timeout_s=30)
