"""The steps of the graph's engine, as `GET /metrics` tells them."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families

_SHARED = "atelier_denoiser_step_requests_bucket"


class Steps:
    def __init__(self, address: str) -> None:
        self._address = address

    async def done(self) -> int:
        """Since the replica started."""
        return await self.shared_by_at_most(float("inf"))

    async def shared_by(self, num_requests: int) -> int:
        """Those in which so many requests shared the UNet call."""
        return await self.shared_by_at_most(num_requests) - await self.shared_by_at_most(num_requests - 1)

    async def shared_by_at_most(self, num_requests: float) -> int:
        async with httpx2.AsyncClient(base_url=self._address) as client:
            answer = (await client.get("/metrics")).raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return sum(
            int(sample.value)
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == _SHARED and float(sample.labels["le"]) == num_requests
        )
