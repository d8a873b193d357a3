"""The routes of durable jobs: handed in, asked about, watched and cancelled."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.responses import StreamingResponse

from atelier.api.body import json_body, json_fields
from atelier.api.errors import ERRORS, error_body
from atelier.api.native.files import FILES, file_response
from atelier.api.native.job_inputs import errors_in_input, fingerprint_of, read_input
from atelier.api.native.job_schemas import (
    JobControlMap,
    JobFile,
    JobList,
    JobRequest,
    JobResponse,
    JobResult,
    JobWebhook,
)
from atelier.api.openai.translate import errors_naming_images
from atelier.api.schemas import EVENT_SCHEMA
from atelier.api.services import JOB_FILE_ROUTE, UrlOf, UsedJobs, UsedPipeline, UsedUrls
from atelier.core.errors import AtelierError, InvalidParameter, NotFound
from atelier.core.jobs import Job, JobEvent, JobState, Json, Operation
from atelier.core.params import parse
from atelier.core.webhooks import Webhook
from atelier.jobs.service import JobService, Outlook

router = APIRouter(prefix="/v1/jobs", tags=["Atelier"])

_MAX_PAGE, _MAX_KEY_CHARS = 100, 200
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"itemSchema": EVENT_SCHEMA}}}}


@router.post(
    "",
    status_code=202,
    responses=ERRORS,
    openapi_extra=json_body(JobRequest),
    response_model_exclude_none=True,
)
async def hand_in(
    request: Request,
    response: Response,
    service: UsedJobs,
    pipeline: UsedPipeline,
    url_of: UsedUrls,
    idempotency_key: Annotated[
        str | None, Header(description="Sent again with the same body, it returns the first job.")
    ] = None,
) -> JobResponse:
    """Hand in a job, which is done even if the client leaves or the server restarts."""
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= _MAX_KEY_CHARS:
        raise InvalidParameter(
            f"Idempotency-Key: has 1 to {_MAX_KEY_CHARS} characters; got {len(idempotency_key)}.",
            param="Idempotency-Key",
        )
    asked = parse(JobRequest, await json_fields(request))
    base_url = url_of("list_jobs").removesuffix(router.prefix)
    webhook = None if asked.webhook is None else service.new_webhook(asked.webhook, base_url)
    with errors_in_input():
        params, sent_as = read_input(asked.operation, asked.input, pipeline.catalogue)
        with errors_naming_images(sent_as):
            job = await service.submit(
                pipeline,
                asked.operation,
                params,
                rank=asked.rank,
                delay_s=asked.delay_s,
                idempotency_key=idempotency_key,
                fingerprint=fingerprint_of(asked),
                webhook=webhook,
            )
    answer = await _answer(job, service, url_of)
    response.headers["location"] = answer.status_url
    return answer


@router.get("", responses=ERRORS, response_model_exclude_none=True)
async def list_jobs(
    service: UsedJobs,
    url_of: UsedUrls,
    state: Annotated[Sequence[JobState], Query(description="Only jobs in this state; may be repeated.")] = (),
    operation: Annotated[Sequence[Operation], Query(description="Only this operation; may be repeated.")] = (),
    after: Annotated[str | None, Query(description="Id of the job that the list follows.")] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Largest number of jobs in the answer.")] = 20,
) -> JobList:
    """Return jobs, the latest first."""
    before = None if after is None else await service.get(after)
    found = await service.jobs.page("", states=state, operations=operation, before=before, max_jobs=limit + 1)
    data = [await _answer(job, service, url_of) for job in found[:limit]]
    return JobList(data=data, has_more=len(found) > limit)


@router.get("/{job_id}", responses=ERRORS, response_model_exclude_none=True)
async def get_job(job_id: str, service: UsedJobs, url_of: UsedUrls) -> JobResponse:
    """Return a job: its state, place and progress, and its result or error."""
    return await _answer(await service.get(job_id), service, url_of)


@router.delete("/{job_id}", responses=ERRORS, response_model_exclude_none=True)
async def cancel_job(job_id: str, service: UsedJobs, url_of: UsedUrls) -> JobResponse:
    """Cancel a job. One that runs stops within a step; one that has ended stays as it is."""
    return await _answer(await service.cancel(job_id), service, url_of)


@router.get("/{job_id}/events", responses={**ERRORS, **_EVENTS}, response_class=StreamingResponse)
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


@router.get("/{job_id}/files/{name}", responses={**ERRORS, **FILES}, response_class=Response, name=JOB_FILE_ROUTE)
async def get_job_file(request: Request, job_id: str, name: str, service: UsedJobs) -> Response:
    """Return a file that a job has made."""
    job = await service.get(job_id)
    data = await service.files.get(name) if name in _names(job.result or {}) else None
    if data is None:
        raise NotFound(f"The job {job_id!r} has no file {name!r}, or its time to live is over.")
    return await file_response(request, name, data)


async def _lines(job_id: str, after: int, service: JobService, url_of: UrlOf) -> AsyncGenerator[str]:
    """Yield server-sent events; a state's id is the number after which a client goes on when it comes back."""
    try:
        async with aclosing(service.watch(job_id, after=after)) as news:
            async for one in news:
                if one is None:
                    yield ": keep-alive\n\n"
                elif isinstance(one, JobEvent):
                    data = {"state": one.state, "attempts": one.attempts, "at": one.at}
                    yield f"id: {one.number}\nevent: state\ndata: {json.dumps(data)}\n\n"
                else:
                    yield f"event: progress\ndata: {json.dumps(asdict(one))}\n\n"
        answer = await _answer(await service.get(job_id), service, url_of)
        yield f"event: job\ndata: {answer.model_dump_json(exclude_none=True)}\n\n"
    except AtelierError as error:
        # The status has been sent already.
        yield f"event: error\ndata: {json.dumps(error_body(error))}\n\n"


async def _answer(job: Job, service: JobService, url_of: UrlOf) -> JobResponse:
    webhook = await service.jobs.webhooks.get(job.id) if job.has_webhook else None
    return _described(job, await service.outlook(job), webhook, url_of)


def ended_job(job: Job, base_url: str) -> Json:
    """Return the fields of a job that has ended, as its webhook has them: those of the route, without `webhook`."""

    def url_of(route: str, /, **parts: str) -> str:
        return f"{base_url}{router.url_path_for(route, **parts)}"

    return _described(job, Outlook(None, None), None, url_of).model_dump(mode="json", exclude_none=True)


def _described(job: Job, outlook: Outlook, webhook: Webhook | None, url_of: UrlOf) -> JobResponse:
    return JobResponse(
        id=job.id,
        operation=job.operation,
        state=job.state,
        priority=job.priority,
        rank=job.rank,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        attempts=job.attempts,
        position=outlook.position,
        eta_s=outlook.eta_s,
        progress=job.progress,
        result=None if job.result is None else _result(job, job.result, url_of),
        error=job.error,
        webhook=None if webhook is None else JobWebhook.model_validate(webhook, from_attributes=True),
        status_url=url_of("get_job", job_id=job.id),
        events_url=url_of("watch_job", job_id=job.id),
    )


def _result(job: Job, result: Json, url_of: UrlOf) -> JobResult:
    fields: dict[str, Any] = dict(result)
    images, maps = fields.pop("images"), fields.pop("control_maps", [])

    def url(named: dict[str, Any]) -> str:
        return url_of(JOB_FILE_ROUTE, job_id=job.id, name=named.pop("file"))

    return JobResult(
        data=[JobFile(url=url(image), **image) for image in map(dict, images)],
        control_maps=[JobControlMap(url=url(one), **one) for one in map(dict, maps)],
        **fields,
    )


def _names(result: Json) -> set[object]:
    """Return the names of the files of a result."""
    fields: dict[str, Any] = dict(result)
    return {one["file"] for one in [*fields.get("images", []), *fields.get("control_maps", [])]}
