"""The routes of batches: several jobs handed in at once, and their images on one contact sheet."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from atelier.api.body import as_object, json_body_or_list
from atelier.api.errors import ERRORS
from atelier.api.native.batch_schemas import MAX_JOBS, Batch, GridRequest
from atelier.api.native.grids import cells_of_grid, cells_of_list
from atelier.api.native.job_answers import job_responses
from atelier.api.native.job_inputs import draft_of
from atelier.api.native.job_schemas import JobRequest
from atelier.api.services import UrlOf, UsedJobs, UsedUrls
from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import AtelierError, MalformedBody, NotFound
from atelier.core.geometry import Size
from atelier.core.jobs import Job
from atelier.core.params import parse
from atelier.imaging.formats import MEDIA_TYPES
from atelier.imaging.sheet import Cell, ContactSheet
from atelier.jobs.service import Draft, JobService

router = APIRouter(prefix="/v1/batches", tags=["Atelier"])

_SHEET: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPES["png"]: {"schema": {"type": "string", "format": "binary"}}}}
}
#: Sheets are drawn one at a time: one of a hundred large images takes seconds of a core.
_drawing = asyncio.Semaphore(1)


def job_body() -> dict[str, Any]:
    """Return the `openapi_extra` of the route that takes a job, a grid or a list of jobs."""
    return json_body_or_list(JobRequest, GridRequest, max_items=MAX_JOBS)


def batch_of(sent: object, catalogue: Catalogue, idempotency_key: str | None) -> list[Draft]:
    """Return the jobs of a list, or those of a grid. Raises what the routes of their operations raise."""
    batch, is_list = f"batch_{secrets.token_hex(16)}", isinstance(sent, list)
    placed = cells_of_list(_jobs_in(sent)) if isinstance(sent, list) else cells_of_grid(_grid_in(sent))
    return [
        draft_of(
            asked,
            catalogue,
            place=f"[{index}]." if is_list else "",
            idempotency_key=None if idempotency_key is None else f"{idempotency_key}#{index}",
            batch=batch,
            cell={"index": index, **asdict(cell)},
        )
        for index, (asked, cell) in enumerate(placed)
    ]


async def batch_response(jobs: Sequence[Job], service: JobService, url_of: UrlOf) -> Batch:
    """Convert the jobs of a batch to its response model."""
    batch_id = jobs[0].batch
    assert batch_id is not None, "jobs of a batch know it"
    return Batch(
        id=batch_id,
        states=Counter(job.state for job in jobs),
        jobs=await job_responses(jobs, service, url_of),
        status_url=url_of("get_batch", batch_id=batch_id),
        sheet_url=url_of("get_sheet", batch_id=batch_id),
    )


@router.get("/{batch_id}", responses=ERRORS, response_model_exclude_none=True)
async def get_batch(batch_id: str, service: UsedJobs, url_of: UsedUrls) -> Batch:
    """Return the jobs of a batch."""
    return await batch_response(await _batch(batch_id, service), service, url_of)


@router.delete("/{batch_id}", responses=ERRORS, response_model_exclude_none=True)
async def cancel_batch(batch_id: str, service: UsedJobs, url_of: UsedUrls) -> Batch:
    """Cancel all jobs of a batch that have not ended."""
    jobs = [await service.cancel(job.id) for job in await _batch(batch_id, service)]
    return await batch_response(jobs, service, url_of)


@router.get("/{batch_id}/sheet", responses={**ERRORS, **_SHEET}, response_class=Response)
async def get_sheet(batch_id: str, service: UsedJobs) -> Response:
    """Return the first images of all jobs on one sheet; a job without one says why."""
    jobs = await _batch(batch_id, service)
    async with _drawing:
        sizes = [Size.parse(str(job.result["size"])) for job in jobs if job.result is not None]
        sheet = ContactSheet([_cell(job) for job in jobs], sizes)
        for job in jobs:
            await asyncio.to_thread(sheet.draw, _cell(job), await _file(job, service))
        file = await asyncio.to_thread(sheet.file)
    return Response(file, media_type=MEDIA_TYPES["png"], headers={"cache-control": "no-store"})


def _jobs_in(sent: list[object]) -> list[JobRequest]:
    if not 1 <= len(sent) <= MAX_JOBS:
        raise MalformedBody(f"A list has 1 to {MAX_JOBS} jobs; got {len(sent)}.")
    jobs = []
    for index, one in enumerate(sent):
        try:
            jobs.append(parse(JobRequest, as_object(one)))
        except AtelierError as error:
            error.param = f"[{index}]" if error.param is None else f"[{index}].{error.param}"
            raise
    return jobs


def _grid_in(sent: object) -> GridRequest:
    return parse(GridRequest, as_object(sent))


async def _batch(batch_id: str, service: JobService) -> Sequence[Job]:
    jobs = await service.jobs.of_batch(batch_id)
    if not jobs:
        raise NotFound(f"There is no batch {batch_id!r}, or it was deleted after its time to live.", param="batch_id")
    return jobs


def _cell(job: Job) -> Cell:
    fields: dict[str, Any] = dict(job.cell or {})
    return Cell(**{name: value for name, value in fields.items() if name != "index"})


async def _file(job: Job, service: JobService) -> bytes | str:
    """Return the first image of a job, or what to write in its place."""
    data = await service.files.get(job.image_files[0]) if job.image_files else None
    if data is not None:
        return data
    return job.state if job.error is None else f"{job.state}: {job.error.message}"
