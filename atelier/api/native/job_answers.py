"""Jobs as answers: what is stored of them, with the addresses of their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atelier.api.native.job_schemas import (
    DownloadResult,
    JobControlMap,
    JobFile,
    JobProgress,
    JobResponse,
    JobResult,
    JobTransfer,
    JobWebhook,
)
from atelier.api.services import JOB_FILE_ROUTE, UrlOf
from atelier.core.jobs import Job, JobId, Json, Progress
from atelier.core.webhooks import Webhook
from atelier.jobs.service import JobService, Outlook


async def job_response(job: Job, service: JobService, url_of: UrlOf) -> JobResponse:
    """Convert a job to its response model, with what is expected of it. Raises JobsUnavailable."""
    [response] = await job_responses([job], service, url_of)
    return response


async def job_responses(jobs: Sequence[Job], service: JobService, url_of: UrlOf) -> list[JobResponse]:
    """Convert jobs to their response models. Raises JobsUnavailable."""
    outlooks = await service.outlooks(jobs)
    webhooks = [await service.jobs.webhooks.get(job.id) if job.has_webhook else None for job in jobs]
    return [
        _described(job, outlook, webhook, url_of)
        for job, outlook, webhook in zip(jobs, outlooks, webhooks, strict=True)
    ]


def ended_job(job: Job, url_of: UrlOf) -> Json:
    """Return the fields of a job that has ended as its webhook has them: those of its response, without `webhook`."""
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
        progress=None if job.progress is None else job_progress(job.id, job.progress, url_of),
        result=None if job.result is None else _result(job, job.result, url_of),
        error=job.error,
        batch=job.batch,
        webhook=None if webhook is None else JobWebhook.model_validate(webhook, from_attributes=True),
        status_url=url_of("get_job", job_id=job.id),
        events_url=url_of("watch_job", job_id=job.id),
    )


def job_progress(job_id: JobId, progress: Progress, url_of: UrlOf) -> JobProgress:
    """Convert the progress of a job to its response model."""
    eta_s, transfer = progress.eta_s, progress.transfer
    return JobProgress(
        step=progress.step,
        total=progress.total,
        elapsed_s=round(progress.elapsed_s, 3),
        eta_s=None if eta_s is None else round(eta_s, 3),
        previews=[url_of(JOB_FILE_ROUTE, job_id=job_id, name=name) for name in progress.previews],
        transfer=None if transfer is None else JobTransfer.model_validate(transfer, from_attributes=True),
    )


def _result(job: Job, result: Json, url_of: UrlOf) -> JobResult | DownloadResult:
    if job.operation == "download":
        return DownloadResult.model_validate(result)
    fields: dict[str, Any] = dict(result)
    images, maps = fields.pop("images"), fields.pop("control_maps", [])

    def url(named: dict[str, Any]) -> str:
        return url_of(JOB_FILE_ROUTE, job_id=job.id, name=named.pop("file"))

    return JobResult(
        data=[JobFile(url=url(image), **image) for image in map(dict, images)],
        control_maps=[JobControlMap(url=url(one), **one) for one in map(dict, maps)],
        **fields,
    )
