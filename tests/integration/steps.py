"""Counts of the engine's steps and requests, read from `GET /metrics`."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_SHARED, _ACTIVE = "atelier_denoiser_step_requests_bucket", "atelier_denoiser_active_requests"


class Steps:
    """Current counts of the graph's engine."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def done(self) -> int:
        """Number of steps since the replica started."""
        return await self.shared_by_at_most(float("inf"))

    async def shared_by(self, num_requests: int) -> int:
        """Number of steps in which exactly `num_requests` requests shared the UNet call."""
        return await self.shared_by_at_most(num_requests) - await self.shared_by_at_most(num_requests - 1)

    async def shared_by_at_most(self, num_requests: float) -> int:
        """Number of steps in which at most `num_requests` requests shared the UNet call."""
        samples = [sample for sample in await self._samples(_SHARED) if float(sample.labels["le"]) == num_requests]
        return sum(int(sample.value) for sample in samples)

    async def active(self) -> int:
        """Number of requests whose rows are in the engine now."""
        return sum(int(sample.value) for sample in await self._samples(_ACTIVE))

    async def _samples(self, name: str) -> list[Sample]:
        async with httpx2.AsyncClient(base_url=self._address) as client:
            answer = (await client.get("/metrics")).raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(answer.text)
        return [sample for family in families for sample in family.samples if sample.name == name]
