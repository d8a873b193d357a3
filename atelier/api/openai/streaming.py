"""A generation as server-sent events, in OpenAI's event types and fields; progress is an event of our own."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from atelier.api.errors import error_body
from atelier.api.openai.schemas import ImagesGenerateRequest
from atelier.api.openai.translate import control_map, usage
from atelier.core.errors import AtelierError
from atelier.core.params import GenerateParams
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.plan import Plan
from atelier.pipeline.results import Result
from atelier.pipeline.streaming import Event, Preview, Progress, stream

logger = logging.getLogger(__name__)

#: A comment is sent when nothing else was for so long, so that no proxy takes the connection for dead.
_KEEP_ALIVE_S = 10.0
#: Of `usage`, as OpenAI streams it.
_NOT_STREAMED = {"output_tokens_details"}

Fields = dict[str, object]


async def event_stream(
    pipeline: Pipeline, params: GenerateParams, asked: ImagesGenerateRequest, *, prefix: str
) -> StreamingResponse:
    """Events named `prefix` and a kind. Raises what refuses the request, while it can still be answered plainly."""
    events = stream(pipeline, params, num_previews=asked.partial_images, wants_progress=asked.progress)
    await anext(events)
    return _EventStream(events, _lines(events, asked, prefix))


class _EventStream(StreamingResponse):
    """Stops the work however it ends, also before its first line: whoever left is cancelled again and again."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Event], lines: AsyncGenerator[str]) -> None:
        super().__init__(lines)
        self._events, self._lines = events, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._lines.aclose()
                await self._events.aclose()


async def _lines(events: AsyncGenerator[Event], asked: ImagesGenerateRequest, prefix: str) -> AsyncGenerator[str]:
    try:
        async with aclosing(_with_pauses(events)) as told:
            async for event in told:
                if event is None:
                    yield ": keep-alive\n\n"
                    continue
                for kind, fields in _told(event, asked):
                    yield _line(f"{prefix}.{kind}", {"type": f"{prefix}.{kind}", **fields})
    except AtelierError as error:
        if error.status >= 500:
            logger.error("a stream ended: %s", error)
        yield _line("error", error_body(error))
    except Exception as error:
        # The HTTP boundary of a stream: its status is out already.
        logger.exception("a stream failed", exc_info=error)
        yield _line("error", error_body(AtelierError()))


async def _with_pauses(events: AsyncGenerator[Event]) -> AsyncGenerator[Event | None]:
    """The events, and None whenever none has come for a while."""
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


def _told(event: Event, asked: ImagesGenerateRequest) -> Sequence[tuple[str, Fields]]:
    """Kinds and fields of what is sent for the event: one for each picture, in their order."""
    if isinstance(event, Progress):
        return [("progress", _progress(event))]
    if isinstance(event, Preview):
        return [
            ("partial_image", {**_picture(data, event.plan), "partial_image_index": event.index})
            for data in event.files
        ]
    if isinstance(event, Result):
        return [("completed", fields) for fields in _completed(event, asked)]
    return []


def _progress(event: Progress) -> Fields:
    return {
        "step": event.step,
        "total": event.total,
        "elapsed_s": round(event.elapsed_s, 3),
        "eta_s": round(event.eta_s, 3),
    }


def _completed(result: Result, asked: ImagesGenerateRequest) -> Sequence[Fields]:
    label: Fields = {} if asked.label is None else {"safety_identifier": asked.label}
    made_by: Fields = {} if result.upscaler is None else {"upscaler": result.upscaler}
    maps = [control_map(drawn).model_dump() for drawn in result.control_maps]
    return [
        {
            **_picture(picture.data, result.plan),
            **label,
            **made_by,
            **({"control_maps": maps} if maps and index == 0 else {}),
            "usage": usage(result.usage.share(index, len(result.pictures))).model_dump(exclude=_NOT_STREAMED),
            "seed": picture.seed,
            "parameters": result.plan.parameters(picture.seed),
            "exactness_key": result.exactness_key,
        }
        for index, picture in enumerate(result.pictures)
    ]


def _picture(data: bytes, plan: Plan) -> Fields:
    return {
        "b64_json": base64.b64encode(data).decode("ascii"),
        "created_at": int(time.time()),
        "size": str(plan.picture_size),
        "quality": plan.quality,
        "background": "opaque",
        "output_format": plan.output_format,
    }


def _line(name: str, fields: Fields) -> str:
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n"
