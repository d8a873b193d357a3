"""The steps of a graph's engine, read from `GET /metrics`."""

from __future__ import annotations

import asyncio

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_SHARED, _RUNNING = "atelier_denoiser_step_requests_bucket", "atelier_denoiser_active_requests"
_ROWS = "atelier_denoiser_step_rows_bucket"
_WAIT_S = 120


class Steps:
    """The counters of the Denoiser's steps at one address."""

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

    async def wider_than(self, num_rows: int) -> int:
        """Number of steps with more than `num_rows` rows, a bound of the histogram."""
        samples = {float(sample.labels["le"]): sample.value for sample in await self._samples(_ROWS)}
        return int(samples[float("inf")] - samples[num_rows])

    async def wait_for(self, num_steps: int) -> int:
        """Wait until at least `num_steps` steps have run since the replica started; return their number."""
        async with asyncio.timeout(_WAIT_S):
            while (done := await self.done()) < num_steps:
                await asyncio.sleep(0.01)
        return done

    async def until_idle(self) -> int:
        """Wait until no request is in the batch; return the number of steps since the replica started."""
        async with asyncio.timeout(_WAIT_S):
            while any(sample.value for sample in await self._samples(_RUNNING)):
                await asyncio.sleep(0.01)
        return await self.done()

    async def _samples(self, name: str) -> list[Sample]:
        async with httpx2.AsyncClient(base_url=self._address) as client:
            answer = (await client.get("/metrics")).raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(answer.text)
        return [sample for family in families for sample in family.samples if sample.name == name]
