"""Jobs watched live: one as server-sent events or over a WebSocket, or all jobs over one WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, WebSocket
from starlette.responses import StreamingResponse

from atelier.api.errors import ERRORS, error_body
from atelier.api.native.job_answers import job_progress, job_response
from atelier.api.schemas import EVENT_SCHEMA
from atelier.api.services import UrlOf, UsedJobs, UsedUrls
from atelier.core.errors import AtelierError, NotFound
from atelier.core.jobs import FINAL, JobEvent, JobId
from atelier.jobs.service import JobService
from atelier.jobs.watching import OfJob

router = APIRouter(tags=["Atelier"])

_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"itemSchema": EVENT_SCHEMA}}}}
#: Codes with which WebSockets are closed (RFC 6455, 7.4): all is said; come again; and from this on, an HTTP status.
_DONE, _COME_AGAIN, _HTTP = 1000, 1013, 4000

Fields = Mapping[str, object]


@router.get("/v1/jobs/{job_id}/events", responses={**ERRORS, **_EVENTS}, response_class=StreamingResponse)
async def watch_job(
    job_id: str,
    service: UsedJobs,
    url_of: UsedUrls,
    last_event_id: Annotated[
        int, Header(ge=0, description="Number of the last `state` event that the client has seen.")
    ] = 0,
) -> StreamingResponse:
    """Stream a job as events: every `state`, the latest `progress`, and the whole `job` when it has ended."""
    await service.get(job_id)
    # The header tells nginx not to collect events before it passes them on.
    headers = {"x-accel-buffering": "no", "cache-control": "no-store"}
    lines = _lines(job_id, last_event_id, service, url_of)
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


@router.websocket("/ws/jobs/{job_id}")
async def watch_job_by_websocket(
    websocket: WebSocket,
    job_id: str,
    service: UsedJobs,
    url_of: UsedUrls,
    after: Annotated[int, Query(ge=0, description="Number of the last state that the client has seen.")] = 0,
) -> None:
    """Send every state, the latest progress, and the whole job when it has ended."""
    await _serve(websocket, messages_of(JobId(job_id), after, service, url_of))


@router.websocket("/ws")
async def watch_jobs_by_websocket(
    websocket: WebSocket,
    service: UsedJobs,
    url_of: UsedUrls,
    since: Annotated[float | None, Query(ge=0, description="Unix time from which states are sent again.")] = None,
) -> None:
    """Send the states and the progress of all jobs, and each job when it has ended, until the client leaves."""
    await _serve(websocket, _messages_of_all(since, service, url_of))


async def _lines(job_id: str, after: int, service: JobService, url_of: UrlOf) -> AsyncGenerator[str]:
    """Yield server-sent events; a state's id is the number after which a client goes on when it comes back."""
    try:
        async with aclosing(messages_of(JobId(job_id), after, service, url_of)) as messages:
            async for message in messages:
                if message is None:
                    yield ": keep-alive\n\n"
                    continue
                data = message["job"] if message["type"] == "job" else message
                number = f"id: {message['number']}\n" if message["type"] == "state" else ""
                yield f"{number}event: {message['type']}\ndata: {json.dumps(data)}\n\n"
    except AtelierError as error:
        # The status has been sent already.
        yield f"event: error\ndata: {json.dumps(error_body(error))}\n\n"


async def messages_of(job_id: JobId, after: int, service: JobService, url_of: UrlOf) -> AsyncGenerator[Fields | None]:
    """Yield what happens to a job, None where nothing does, and the job when it has ended. Raises NotFound."""
    await service.get(job_id)
    async with aclosing(service.watch(job_id, after=after)) as news:
        async for one in news:
            match one:
                case None:
                    yield None
                case JobEvent():
                    yield _state(one)
                case _:
                    yield _progress(OfJob(job_id, one), url_of)
    yield await _whole(job_id, service, url_of)


async def _messages_of_all(since: float | None, service: JobService, url_of: UrlOf) -> AsyncGenerator[Fields | None]:
    async with aclosing(service.watch_all("", since=since)) as news:
        async for one in news:
            if isinstance(one, OfJob):
                yield _progress(one, url_of)
                continue
            yield _state(one)
            if one.state in FINAL:
                try:
                    yield await _whole(one.job_id, service, url_of)
                except NotFound:
                    # It has been deleted since.
                    continue


async def _serve(websocket: WebSocket, messages: AsyncGenerator[Fields | None]) -> None:
    """Send messages until they end or the client leaves."""
    await websocket.accept()
    sending, leaving = asyncio.create_task(_send(websocket, messages)), asyncio.create_task(_left(websocket))
    try:
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
    if sending.done() and not sending.cancelled():
        await websocket.close(sending.result())


async def _send(websocket: WebSocket, messages: AsyncGenerator[Fields | None]) -> int:
    """Send all messages, and return the code to close with."""
    message: Fields | None = None
    try:
        async with aclosing(messages):
            async for message in messages:
                if message is not None:
                    await websocket.send_json(message)
    except AtelierError as error:
        await websocket.send_json({"type": "error", **error_body(error)})
        return _HTTP + error.status
    return _DONE if message is not None and message["type"] == "job" else _COME_AGAIN


async def _left(websocket: WebSocket) -> None:
    """Return when the client leaves. What it sends is ignored."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _state(event: JobEvent) -> Fields:
    return {
        "type": "state",
        "job_id": event.job_id,
        "number": event.number,
        "state": event.state,
        "attempts": event.attempts,
        "at": event.at,
    }


def _progress(of_job: OfJob, url_of: UrlOf) -> Fields:
    progress = job_progress(of_job.job_id, of_job.progress, url_of)
    return {"type": "progress", "job_id": of_job.job_id, **progress.model_dump(exclude_none=True)}


async def _whole(job_id: str, service: JobService, url_of: UrlOf) -> Fields:
    job = await job_response(await service.get(job_id), service, url_of)
    return {"type": "job", "job": job.model_dump(mode="json", exclude_none=True)}
