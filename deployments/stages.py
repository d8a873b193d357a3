"""The pipeline's stages over Serve handles: numpy in and out, Ray's errors turned into AtelierErrors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from grpc.aio import AioRpcError
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from atelier.core.conditioning import Floats, Prompts
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import DenoiseEvent, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError, QueueFull, ReplicaDied, ReplicaLeaving, ReplicaLost
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.core.status import GraphStatus, Holders
from atelier.pipeline.stages import (
    Annotated,
    DecodedLatents,
    EncodedLatents,
    EncodedTexts,
    ModelStage,
    Pixels,
    Upscaled,
)
from deployments import leaving
from deployments.devices import Devices
from deployments.handles import GraphHandles
from deployments.metrics import merged
from deployments.readiness import Readiness

logger = logging.getLogger(__name__)

_METRICS_TIMEOUT_S = 1.0
#: Errors for a replica whose process has ended. ActorUnavailableError says that the connection to it broke, which is
#: all that a caller over gRPC sees.
_DIED = (ActorDiedError, ActorUnavailableError, WorkerCrashedError)
#: Errors for a replica, a node or a result that is gone. ObjectLostError includes OwnerDiedError, for a lost
#: caller of the replica that made a result, and ObjectFetchTimedOutError, for a node that does not answer.
_LOST = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,
    RaySystemError,
    DeploymentUnavailableError,
    AioRpcError,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Time limits of single calls, in seconds; a replica that exceeds one counts as lost."""

    #: Limit of a call, and of the time before the first event of a stream, with the wait for a replica.
    stage_deadline_s: float
    #: Limit of the time between two events of a stream.
    stream_gap_s: float


class HandleStages:
    """`atelier.pipeline.stages.Stages` over the handles of a graph."""

    def __init__(
        self, handles: GraphHandles, readiness: Readiness, limits: CallLimits, *, own_metrics: Callable[[], str]
    ) -> None:
        """`own_metrics` returns the metrics of the process that calls, in Prometheus' text format."""
        self._handles = handles
        self._readiness = readiness
        self._devices = Devices(handles, readiness)
        self._own_metrics = own_metrics
        #: They can be changed while calls are in progress.
        self.limits = limits

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        return await self._answer(self._handles.text_encoder.encode_texts.remote(model, prompts, reproducibility))

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        return await self._answer(self._handles.autoencoder.encode_latents.remote(model, pixels))

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        return await self._answer(self._handles.annotator.annotate.remote(annotation, pixels))

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
        """Open the events of a request; leaving the context cancels the stream, which Serve would run to its end."""
        with leaving.watched(request.request_id) as is_to_leave:
            stream = self._handles.denoiser.options(stream=True).denoise.remote(request)
            try:
                yield self._events(stream, is_to_leave)
            finally:
                stream.cancel()

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        return await self._answer(self._handles.autoencoder.decode_latents.remote(model, latents))

    async def upscale(
        self, upscaler: str | None, pixels: Pixels, size: Size, reproducibility: Reproducibility
    ) -> Upscaled:
        return await self._answer(self._handles.upscaler.upscale.remote(upscaler, pixels, size, reproducibility))

    async def _answer(self, response: Awaitable[T]) -> T:
        """Await a call, which is cancelled at its limit. Raises AtelierErrors only."""
        with _our_errors():
            async with asyncio.timeout(self.limits.stage_deadline_s):
                return await response

    async def _events(self, stream: AsyncIterator[DenoiseEvent], is_to_leave: Event) -> AsyncIterator[DenoiseEvent]:
        """Yield a stream's events. Raises AtelierErrors only.

        Raises ReplicaLeaving if the request is to leave, as soon as that costs no step that it has done.
        """
        limit_s, has_begun = self.limits.stage_deadline_s, False
        while True:
            with _our_errors():
                try:
                    async with asyncio.timeout(limit_s):
                        event = await anext(stream)
                except StopAsyncIteration:
                    return
            yield event
            has_begun = has_begun or isinstance(event, StepEvent)
            is_saved = isinstance(event, StepEvent) and event.snapshot is not None
            if is_to_leave.is_set() and (is_saved or not has_begun):
                raise ReplicaLeaving
            limit_s = self.limits.stream_gap_s

    async def origin(self, stage: ModelStage) -> Origin:
        handle: DeploymentHandle = getattr(self._handles, stage)
        return await self._answer(handle.origin.remote())

    async def load_model(self, model: str) -> Holders:
        return await self._on_holders("load_model", model)

    async def unload_model(self, model: str) -> Holders:
        return await self._on_holders("unload_model", model)

    async def _on_holders(self, method: str, model: str) -> Holders:
        """Call a method of all replicas that hold models, which returns whether it holds this one afterwards."""
        handles = (self._handles.text_encoder, self._handles.denoiser, self._handles.autoencoder)
        calls = (self._answer(handle.broadcast(method, model).results_async()) for handle in handles)
        answers = [is_held for of_deployment in await asyncio.gather(*calls) for is_held in of_deployment]
        return Holders(num_holders=sum(answers), num_replicas=len(answers))

    async def metrics_text(self) -> str:
        """Return this process's metrics, with those of all Denoisers unless one does not answer within a second."""
        answers: list[str | Exception] = [TimeoutError(f"no answer within {_METRICS_TIMEOUT_S} s")]
        asking = asyncio.create_task(
            self._handles.denoiser.broadcast("metrics_text").results_async(return_exceptions=True)
        )
        try:
            # Not `wait_for`, which waits until a cancelled call has ended.
            if (await asyncio.wait([asking], timeout=_METRICS_TIMEOUT_S))[0]:
                answers = asking.result()
        finally:
            asking.cancel()
        texts = [answer for answer in answers if isinstance(answer, str)]
        for answer in answers:
            if isinstance(answer, Exception):
                logger.warning("a Denoiser did not return its metrics", exc_info=answer)
        return merged([self._own_metrics(), *texts], is_complete=len(texts) == len(answers))

    async def check_ready(self) -> bool:
        """Return whether every deployment has a running replica or is scaled to zero."""
        return await self._readiness.is_ready()

    async def status(self) -> GraphStatus:
        return await self._devices.status()


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turn other errors into AtelierErrors: QueueFull for backpressure, ReplicaLost for what is gone or too slow."""
    try:
        yield
    except AtelierError as error:
        # Ray raises a subclass of its RayTaskError and of our error, with a remote traceback as its message.
        raise (error.cause if isinstance(error, RayTaskError) else error) from None
    except BackPressureError as error:
        raise QueueFull from error
    except _DIED as error:
        raise ReplicaDied from error
    except _LOST as error:
        raise ReplicaLost from error
    except TimeoutError as error:
        raise ReplicaLost("A replica did not answer in time; try again.") from error
