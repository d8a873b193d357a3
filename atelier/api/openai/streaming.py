"""A generation as server-sent events, in OpenAI's event types and fields; progress is an event of our own."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from atelier.api.errors import error_body
from atelier.api.openai.answers import usage
from atelier.api.openai.quality import resolved
from atelier.api.openai.schemas import ImagesGenerateRequest
from atelier.api.schemas import control_map
from atelier.core.errors import AtelierError
from atelier.core.params.generate import GenerateParams
from atelier.pipeline.events import Event, Planned, Preview, Step
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord
from atelier.pipeline.resolve import Plan
from atelier.pipeline.results import Result

logger = logging.getLogger(__name__)

#: Seconds without an event after which a comment is sent, so that proxies keep the connection open.
_KEEP_ALIVE_S = 10.0
#: Fields of `usage` that OpenAI leaves out of streams.
_NOT_STREAMED = {"output_tokens_details"}

Fields = dict[str, object]


async def event_stream(
    record: RequestRecord,
    params: GenerateParams,
    asked: ImagesGenerateRequest,
    pipeline: Pipeline,
    *,
    prefix: str,
) -> StreamingResponse:
    """Return a response that streams a generation as events whose types begin with `prefix`.

    A rejected request raises its error here, before the response begins.
    """
    events = pipeline.stream(record, params, report_steps=asked.progress, num_previews=asked.partial_images)
    planned = await anext(events)
    assert isinstance(planned, Planned)
    return _EventStream(events, _lines(events, _Translator(planned.plan, asked), record, prefix))


class _EventStream(StreamingResponse):
    """Cancels the generation when the response ends for any reason, including a disconnect before the first event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Event], lines: AsyncGenerator[str]) -> None:
        # The header tells nginx not to collect events before it passes them on.
        super().__init__(lines, headers={"x-accel-buffering": "no"})
        self._events, self._lines = events, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._lines.aclose()
                await self._events.aclose()


async def _lines(
    events: AsyncGenerator[Event], translator: _Translator, record: RequestRecord, prefix: str
) -> AsyncGenerator[str]:
    """Yield server-sent events and keep-alive comments; a failed generation ends with an `error` event."""
    try:
        async with aclosing(_with_pauses(events)) as paused:
            async for event in paused:
                if event is None:
                    yield ": keep-alive\n\n"
                    continue
                for kind, fields in translator.translate(event):
                    yield _line(f"{prefix}.{kind}", {"type": f"{prefix}.{kind}", **fields})
    except AtelierError as error:
        record.code = error.code
        if error.status >= 500:
            logger.error("%s: a stream ended with an error: %s", record.request_id, error)
        yield _line("error", error_body(error))
    except Exception as error:
        # Report the error as an event, because the HTTP status has already been sent.
        record.code = AtelierError.code
        logger.exception("%s: a stream failed", record.request_id, exc_info=error)
        yield _line("error", error_body(AtelierError()))


async def _with_pauses(events: AsyncGenerator[Event]) -> AsyncGenerator[Event | None]:
    """Yield the events, and None after every `_KEEP_ALIVE_S` without one."""
    coming: asyncio.Future[Event] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([coming], timeout=_KEEP_ALIVE_S)
            if not done:
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([coming])


@dataclass(frozen=True, slots=True)
class _Translator:
    """Translates the events of one generation into OpenAI's stream events."""

    plan: Plan
    asked: ImagesGenerateRequest

    def translate(self, event: Event) -> Sequence[tuple[str, Fields]]:
        """Return the event types and fields to send for one event: one per image for previews and results."""
        match event:
            case Step():
                return [("progress", _progress(event))]
            case Preview():
                index: Fields = {"partial_image_index": event.index}
                return [("partial_image", {**self._image(data), **index}) for data in event.files]
            case Result():
                return [("completed", fields) for fields in self._completed(event)]
            case Planned():
                return []

    def _completed(self, result: Result) -> Sequence[Fields]:
        label: Fields = {} if self.asked.label is None else {"safety_identifier": self.asked.label}
        upscaler: Fields = {} if result.upscaler is None else {"upscaler": result.upscaler}
        maps = [control_map(drawn).model_dump() for drawn in result.control_maps]
        return [
            {
                **self._image(picture.data),
                **label,
                **upscaler,
                **({"control_maps": maps} if maps and index == 0 else {}),
                "usage": usage(result.usage.share(index, len(result.pictures))).model_dump(exclude=_NOT_STREAMED),
                "seed": picture.seed,
                "parameters": self.plan.parameters(picture.seed),
                "cached": result.is_cached,
                "exactness_key": result.exactness_key,
            }
            for index, picture in enumerate(result.pictures)
        ]

    def _image(self, data: bytes) -> Fields:
        return {
            "b64_json": base64.b64encode(data).decode("ascii"),
            "created_at": int(time.time()),
            "size": str(self.plan.image_size),
            "quality": resolved(self.asked.quality),
            "background": "opaque",
            "output_format": self.plan.params.output_format,
        }


def _progress(step: Step) -> Fields:
    return {
        "step": step.step,
        "total": step.total,
        "elapsed_s": round(step.elapsed_s, 3),
        "eta_s": round(step.eta_s, 3),
    }


def _line(name: str, fields: Fields) -> str:
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n"
