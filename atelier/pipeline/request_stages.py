"""The stages as one request calls them: a call whose replica is lost is repeated, and the time of each is recorded.

A call may go to any replica, so it is repeated twice; a denoising request goes on from its last snapshot, also where
its replica is to be stopped. Nothing is repeated after the request's deadline, which ends all of its calls. A
denoising request is not repeated after two replicas have died with it, because it may be what killed them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import TypeVar

from atelier.core.conditioning import Floats, Prompts
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import DecodedPreview, Denoised, DenoiseRequest, RequestId, StepEvent
from atelier.core.errors import PoisonRequest, ReplicaDied, ReplicaLeaving, ReplicaLost
from atelier.core.geometry import Size
from atelier.core.sampling import Reproducibility
from atelier.pipeline.deadline import Deadline
from atelier.pipeline.record import RequestRecord, StageName
from atelier.pipeline.stages import Annotated, DecodedLatents, EncodedLatents, EncodedTexts, Pixels, Stages, Upscaled

logger = logging.getLogger(__name__)

_MAX_CALLS, _MAX_DEATHS = 3, 2
#: Seconds between two snapshots of a request: about as much work is lost with a replica. A snapshot costs 0.5 ms.
_SNAPSHOT_PERIOD_S = 1.0

T = TypeVar("T")


class RequestStages:
    """The calls of one request to the graph's stages. Methods raise what those of `Stages` raise."""

    def __init__(self, stages: Stages, record: RequestRecord, deadline: Deadline) -> None:
        """Call `stages`, and let the engine work on the request until the deadline at most."""
        self._stages = stages
        self._record = record
        self._deadline = deadline

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        return await self._call("encode_texts", lambda: self._stages.encode_texts(model, prompts, reproducibility))

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        return await self._call("encode_latents", lambda: self._stages.encode_latents(model, pixels))

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        return await self._call("annotate", lambda: self._stages.annotate(annotation, pixels))

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        return await self._call("decode_latents", lambda: self._stages.decode_latents(model, latents))

    async def upscale(
        self, upscaler: str | None, pixels: Pixels, size: Size, reproducibility: Reproducibility
    ) -> Upscaled:
        return await self._call("upscale", lambda: self._stages.upscale(upscaler, pixels, size, reproducibility))

    async def denoise(self, request: DenoiseRequest) -> AsyncGenerator[StepEvent | DecodedPreview | Denoised]:
        """Yield the request's events, `Denoised` last; closing the iterator stops the work before the next step.

        Steps and previews that are repeated after a loss are not reported again. Raises PoisonRequest after two
        deaths.
        """
        step, preview_step, num_losses, num_deaths = 0, 0, 0, 0
        request = replace(request, snapshot_period_s=_SNAPSHOT_PERIOD_S)
        with self._record.timed("denoise"):
            for call in count(1):
                try:
                    async with aclosing(self._attempt(request, call)) as events:
                        async for event in events:
                            if isinstance(event, Denoised):
                                yield event
                                continue
                            if isinstance(event, DecodedPreview):
                                if event.step > preview_step:
                                    preview_step = event.step
                                    yield event
                                continue
                            if event.snapshot is not None:
                                request = replace(request, resume=event.snapshot)
                            if event.step > step:
                                step = event.step
                                yield event
                    return
                except ReplicaLeaving:
                    logger.info("%s leaves a replica that is to be stopped", request.request_id)
                except ReplicaLost as error:
                    num_losses += 1
                    num_deaths += isinstance(error, ReplicaDied)
                    if num_deaths == _MAX_DEATHS:
                        raise PoisonRequest from error
                    if num_losses == _MAX_CALLS:
                        raise
                    self._repeat("denoise", error)

    async def _attempt(
        self, request: DenoiseRequest, call: int
    ) -> AsyncGenerator[StepEvent | DecodedPreview | Denoised]:
        """Yield the events of one stream. Raises ReplicaLost if it ends without latents.

        The engine knows the request by an id of its own, because a lost replica may still be at work under the last.
        """
        request_id = RequestId(f"{request.request_id}.{call}")
        limited = replace(
            request,
            request_id=request_id,
            is_repeated=call > 1,
            time_limit_s=self._deadline.remaining_s,
            has_deadline=self._deadline.is_asked,
        )
        latents: Denoised | None = None
        try:
            async with self._stages.denoise(limited) as events:
                # To its end, also after the latents: the replica would log a call that is left as cancelled.
                async for event in events:
                    if isinstance(event, Denoised):
                        latents = event
                    elif isinstance(event, StepEvent | DecodedPreview):
                        yield event
        except ReplicaLost:
            if latents is None:
                raise
        if latents is None:
            raise ReplicaLost("The denoiser's stream ended without latents.")
        self._record.stage_s["queue"] += latents.queue_s
        yield latents

    async def _call(self, stage: StageName, make: Callable[[], Awaitable[T]]) -> T:
        with self._record.timed(stage):
            for _ in range(_MAX_CALLS - 1):
                try:
                    return await make()
                except ReplicaLost as error:
                    self._repeat(stage, error)
            return await make()

    def _repeat(self, stage: StageName, error: ReplicaLost) -> None:
        self._record.num_repeats += 1
        logger.warning("a replica was lost; repeating %s: %s", stage, error)
