"""Stages whose denoising tests can hold up between two steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from atelier.core.denoising import DenoiseEvent, DenoiseRequest
from atelier.pipeline.stages import Stages
from tests.stages import RecordingStages


class SteppedStages(RecordingStages):
    """Stages that report each step, and wait after it while `may_go_on` is cleared."""

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
        async with super().denoise(replace(request, report_steps=True)) as events:
            yield self._held(events)

    async def _held(self, events: AsyncIterator[DenoiseEvent]) -> AsyncIterator[DenoiseEvent]:
        async for event in events:
            yield event
            await self.may_go_on.wait()
