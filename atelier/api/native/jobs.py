"""The routes of durable jobs: handed in, asked about and cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from atelier.api.body import as_object, json_value
from atelier.api.errors import ERRORS
from atelier.api.idempotency import GivenKey
from atelier.api.native.batch_schemas import Batch
from atelier.api.native.batches import batch_of, batch_response, job_body
from atelier.api.native.files import FILES, file_response
from atelier.api.native.job_answers import job_response, job_responses
from atelier.api.native.job_inputs import draft_of
from atelier.api.native.job_schemas import JobList, JobRequest, JobResponse
from atelier.api.preferences import GivenWait
from atelier.api.services import JOB_FILE_ROUTE, UsedJobs, UsedPipeline, UsedUrls
from atelier.core.errors import NotFound
from atelier.core.jobs import FINAL, JobState, Operation
from atelier.core.params import parse

router = APIRouter(prefix="/v1/jobs", tags=["Atelier"])

_MAX_PAGE = 100


@router.post(
    "",
    status_code=202,
    responses={**ERRORS, 200: {"model": JobResponse, "description": "The job, which has ended."}},
    openapi_extra=job_body(),
    response_model_exclude_none=True,
)
async def hand_in(
    request: Request,
    response: Response,
    service: UsedJobs,
    pipeline: UsedPipeline,
    url_of: UsedUrls,
    idempotency_key: GivenKey,
    wait_s: GivenWait,
) -> JobResponse | Batch:
    """Hand in a job, which is done even if the client leaves or the server restarts.

    With `Prefer: wait` the answer comes when the job has ended, with its result or error. A list of jobs, or one with
    a `grid`, is a batch: all of its jobs are taken, or none, and the answer comes at once.
    """
    sent, catalogue = await json_value(request), pipeline.catalogue
    base_url = url_of("list_jobs").removesuffix(router.prefix)
    if isinstance(sent, list) or (isinstance(sent, dict) and "grid" in sent):
        jobs = await service.submit(pipeline, batch_of(sent, catalogue, idempotency_key), base_url=base_url)
        batch = await batch_response(jobs, service, url_of)
        response.headers["location"] = batch.status_url
        return batch
    asked = parse(JobRequest, as_object(sent))
    draft = draft_of(asked, catalogue, idempotency_key=idempotency_key)
    [job] = await service.submit(pipeline, [draft], base_url=base_url)
    if wait_s is not None:
        job = await service.ended(job.id, timeout_s=wait_s)
        response.headers["preference-applied"] = f"wait={wait_s}"
        response.status_code = 200 if job.state in FINAL else 202
    answer = await job_response(job, service, url_of)
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
    data = await job_responses(found[:limit], service, url_of)
    return JobList(data=data, has_more=len(found) > limit)


@router.get("/{job_id}", responses=ERRORS, response_model_exclude_none=True)
async def get_job(job_id: str, service: UsedJobs, url_of: UsedUrls) -> JobResponse:
    """Return a job: its state, place and progress, and its result or error."""
    return await job_response(await service.get(job_id), service, url_of)


@router.delete("/{job_id}", responses=ERRORS, response_model_exclude_none=True)
async def cancel_job(job_id: str, service: UsedJobs, url_of: UsedUrls) -> JobResponse:
    """Cancel a job. One that runs stops within a step; one that has ended stays as it is."""
    return await job_response(await service.cancel(job_id), service, url_of)


@router.get("/{job_id}/files/{name}", responses={**ERRORS, **FILES}, response_class=Response, name=JOB_FILE_ROUTE)
async def get_job_file(request: Request, job_id: str, name: str, service: UsedJobs) -> Response:
    """Return a file that a job has made."""
    job = await service.get(job_id)
    data = await service.files.get(name) if name in job.files else None
    if data is None:
        raise NotFound(f"The job {job_id!r} has no file {name!r}, or its time to live is over.")
    return await file_response(request, name, data)
