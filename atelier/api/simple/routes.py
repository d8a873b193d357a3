"""The simple routes: an image from a prompt as a job or at once, with few fields and plain defaults."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from atelier.api.body import json_body, json_fields
from atelier.api.errors import ERRORS
from atelier.api.native.files import FILES, file_response
from atelier.api.native.schemas import RefusedModel
from atelier.api.native.status import served
from atelier.api.request_log import record_of
from atelier.api.services import UrlOf, UsedJobs, UsedPipeline, UsedUrls
from atelier.api.simple.schemas import (
    SimpleImage,
    SimpleImageParams,
    SimpleJob,
    SimpleModels,
    SimpleParams,
    SimpleStatus,
)
from atelier.api.simple.translate import errors_of_simple_routes, simple_params
from atelier.core.errors import InvalidParameter, JobUnfinished, NotFound
from atelier.core.jobs import FINAL, Job
from atelier.core.params import parse
from atelier.jobs.service import Draft, JobService

router = APIRouter(tags=["Simple"])


@router.post("/generate", status_code=202, responses=ERRORS, openapi_extra=json_body(SimpleParams))
async def generate(request: Request, service: UsedJobs, pipeline: UsedPipeline, url_of: UsedUrls) -> SimpleJob:
    """Hand in a prompt; the image is made even if the client leaves."""
    asked = parse(SimpleParams, await json_fields(request))
    with errors_of_simple_routes():
        draft = Draft(operation="generate", params=simple_params(asked, pipeline.catalogue))
        [job] = await service.submit(pipeline, [draft])
    return SimpleJob(
        job_id=job.id,
        status=job.state,
        status_url=url_of("simple_status", job_id=job.id),
        image_url=url_of("simple_image", job_id=job.id),
    )


@router.get("/status/{job_id}", responses=ERRORS, response_model_exclude_none=True)
async def simple_status(job_id: str, service: UsedJobs, url_of: UsedUrls) -> SimpleStatus:
    """Return how far a job is."""
    return await _status(await service.get(job_id), service, url_of)


@router.get("/image/{job_id}", responses={**ERRORS, **FILES}, response_class=Response)
async def simple_image(
    request: Request,
    job_id: str,
    service: UsedJobs,
    index: Annotated[int, Query(ge=0, description="Number of the image among those of the job, from 0.")] = 0,
) -> Response:
    """Return the image of a job; the header `X-Generation-Metadata` says how it was made."""
    job = await service.get(job_id)
    if job.state not in FINAL:
        raise JobUnfinished(f"The job {job_id!r} is {job.state}; its image is not there yet.")
    if job.result is None:
        reason = "it was cancelled" if job.error is None else job.error.message
        raise NotFound(f"The job {job_id!r} has no image: {reason}")
    names = job.image_files
    if index >= len(names):
        raise InvalidParameter(f"index: the job has {len(names)} images; got {index}.", param="index")
    data = await service.files.get(names[index])
    if data is None:
        raise NotFound(f"The time to live of the image of {job_id!r} is over.")
    return await file_response(request, names[index], data)


@router.post("/generate-image", responses=ERRORS, openapi_extra=json_body(SimpleImageParams))
async def generate_image(request: Request, pipeline: UsedPipeline) -> SimpleImage:
    """Return the image of a prompt: at once if the same was asked for before."""
    record = record_of(request.scope)
    with pipeline.arriving():
        asked = parse(SimpleImageParams, await json_fields(request))
    with errors_of_simple_routes():
        result = await pipeline.generate(record, simple_params(asked, pipeline.catalogue))
    [picture] = result.pictures
    return SimpleImage(
        image=f"data:image/png;base64,{base64.b64encode(picture.data).decode('ascii')}",
        cached=result.is_cached,
        model=result.plan.model,
        seed=picture.seed,
        width=result.plan.image_size.width,
        height=result.plan.image_size.height,
        generation_time_s=round(record.total_s, 3),
    )


@router.get("/models")
async def simple_models(request: Request, pipeline: UsedPipeline) -> SimpleModels:
    """Return the models of this server with their defaults, and the files that are refused, with the reasons."""
    models = (await served(pipeline.catalogue, request)).models
    found = await asyncio.to_thread(pipeline.catalogue.library.look)
    refused = [RefusedModel(file=file.name, reason=file.reason) for file in found.refused]
    return SimpleModels(default=models[0].id, models=models, refused=refused)


async def _status(job: Job, service: JobService, url_of: UrlOf) -> SimpleStatus:
    [outlook], progress = await service.outlooks([job]), job.progress
    share = 0.0 if progress is None else progress.step / progress.total
    is_done = job.state == "succeeded"
    return SimpleStatus(
        job_id=job.id,
        status=job.state,
        progress=1.0 if is_done else round(share, 3),
        step=None if progress is None else progress.step,
        total_steps=None if progress is None else progress.total,
        elapsed_s=None if progress is None else progress.elapsed_s,
        eta_s=outlook.eta_s,
        position=outlook.position,
        image_url=url_of("simple_image", job_id=job.id) if is_done else None,
        error=None if job.error is None else job.error.message,
    )
