"""Requests and answers of the routes of jobs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from atelier.core.control import ControlKind
from atelier.core.jobs import ImageOperation, JobError, JobState, Operation
from atelier.core.params import InstalledKind, OutputFormat, Params
from atelier.core.priority import Priority
from atelier.core.webhooks import WebhookState
from atelier.jobs.receivers import MAX_URL_CHARS
from atelier.pipeline.resolve import Parameters

_MAX_RANK, _MAX_DELAY_S = 100, 30 * 24 * 3600
#: Number of previews of a job at most, as of a stream.
MAX_PREVIEWS = 3


class JobRequest(Params):
    """POST /v1/jobs"""

    operation: ImageOperation = Field(description="What to do; each takes the fields of its route under /v1/images.")
    input: dict[str, object] = Field(
        description="The fields of the operation, with images in base64. `priority` and `deadline_s` are the job's.",
        examples=[{"prompt": "a red circle, white background"}],
    )
    rank: int = Field(
        0, ge=-_MAX_RANK, le=_MAX_RANK, description="Each point brings the job forward as if it had waited a minute."
    )
    delay_s: float = Field(0, ge=0, le=_MAX_DELAY_S, description="Seconds before which the job does not start.")
    previews: int = Field(
        0, ge=0, le=MAX_PREVIEWS, description="Number of previews that its progress shows; generations have them."
    )
    webhook: str | None = Field(
        None,
        max_length=MAX_URL_CHARS,
        description="URL to which the job is posted when it has ended, by https, signed as Standard Webhooks says.",
        examples=["https://example.org/hook"],
    )


class JobTransfer(BaseModel):
    """How far a download is, in bytes."""

    done_bytes: int = Field(description="Number of bytes that have arrived, those of earlier attempts included.")
    total_bytes: int
    bytes_per_s: float | None = Field(None, description="Average speed of this attempt.")


class JobProgress(BaseModel):
    """How far a running job is."""

    step: int = Field(description="Number of steps that are done; of a download, the number of files.")
    total: int
    elapsed_s: float
    eta_s: float | None = Field(None, description="Seconds until the last step or byte, at the speed so far.")
    previews: list[str] = Field([], description="Addresses of the latest previews, one per image.")
    transfer: JobTransfer | None = Field(None, description="The bytes of a download.")


class JobFile(BaseModel):
    """An image of a job."""

    url: str
    seed: int | None = None
    parameters: Parameters | None = Field(None, description="The fields that make this image again.")


class JobControlMap(BaseModel):
    """A control map that was drawn for a job."""

    url: str
    kind: ControlKind


class JobUsage(BaseModel):
    """Tokens of the texts, and latent positions (8 × 8 pixels) of the images."""

    text_tokens: int
    input_image_tokens: int
    output_image_tokens: int


class JobResult(BaseModel):
    """What a job has made."""

    data: list[JobFile]
    control_maps: list[JobControlMap] = []
    output_format: OutputFormat
    size: str
    upscaler: str | None = None
    kind: ControlKind | None = Field(None, description="Kind of the control map that was drawn.")
    usage: JobUsage | None = None
    exactness_key: str | None = None
    cached: bool | None = Field(None, description="Whether the images were made for an equal request before.")


class InstalledModel(BaseModel):
    """A model or LoRA that was downloaded from the model hub."""

    id: str = Field(description="Id by which requests name it.")
    kind: InstalledKind
    repository: str
    revision: str = Field(description="Commit of the repository.")
    file: str | None = Field(None, description="The LoRA's file in the repository.")
    licence: str
    num_bytes: int = Field(description="Size of the downloaded files.")
    installed_at: float = Field(description="Unix time in seconds.")


class DownloadResult(BaseModel):
    """What a download has made."""

    installed: InstalledModel


class JobWebhook(BaseModel):
    """The delivery of a job to the client's URL."""

    url: str
    state: WebhookState
    attempts: int = Field(description="Number of times that a delivery was begun.")
    last_error: str | None = Field(None, description="Why the last attempt failed.")


class JobResponse(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    operation: Operation
    state: JobState
    priority: Priority
    rank: int
    created_at: float = Field(description="Unix time in seconds, as the other times.")
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = Field(description="Number of times that a worker began with it.")
    position: int | None = Field(None, description="Number of queued jobs that are due before it.")
    eta_s: float | None = Field(None, description="Seconds until it is expected to end.")
    progress: JobProgress | None = None
    result: JobResult | DownloadResult | None = None
    error: JobError | None = None
    batch: str | None = Field(None, description="Id of the batch that it belongs to.")
    webhook: JobWebhook | None = None
    status_url: str
    events_url: str


class JobList(BaseModel):
    """Jobs, the latest first."""

    object: Literal["list"] = "list"
    data: list[JobResponse]
    has_more: bool = Field(description="Whether more jobs follow; ask for them with `after`, the last one's id.")
