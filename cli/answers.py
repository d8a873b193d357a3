"""The server's answers, with the fields that commands read; others are ignored."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from atelier.core.jobs import JobError, JobState, Progress


class Parameters(BaseModel):
    """The fields that make an image again."""

    model: str


class JobFile(BaseModel):
    """An image of a job."""

    url: str
    seed: int | None = None
    parameters: Parameters | None = None

    @property
    def name(self) -> str:
        """The file's name on the server."""
        return self.url.rpartition("/")[2]


class JobResult(BaseModel):
    """What a job has made."""

    data: list[JobFile]
    output_format: str
    size: str


class Installed(BaseModel):
    """A model or LoRA that was downloaded from the model hub."""

    id: str
    kind: str
    revision: str
    licence: str
    num_bytes: int
    installed_at: float


class DownloadResult(BaseModel):
    """What a download has made."""

    installed: Installed


class InstalledList(BaseModel):
    """What was downloaded."""

    data: list[Installed]


class Removed(BaseModel):
    """What was removed."""

    id: str


class HubModel(BaseModel):
    """A repository of the model hub."""

    name: str
    kind: str | None
    licence: str
    licence_link: str
    downloads: int
    is_installed: bool
    reason: str | None
    num_bytes: int | None


class HubModelList(BaseModel):
    """Repositories of the model hub, the most downloaded first."""

    data: list[HubModel]


class Job(BaseModel):
    """A job."""

    id: str
    operation: str
    state: JobState
    priority: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int
    position: int | None = None
    eta_s: float | None = None
    progress: Progress | None = None
    result: JobResult | DownloadResult | None = None
    error: JobError | None = None


class JobList(BaseModel):
    """Jobs, the latest first."""

    data: list[Job]


class StateChange(BaseModel):
    """A change of a job's state."""

    state: JobState


class Offered(BaseModel):
    """Something that requests can name."""

    id: str
    description: str
    licence: str


class Model(Offered):
    """A model with its defaults."""

    default_size: str
    num_inference_steps: int


class ControlNet(Offered):
    """A ControlNet, and the model that it goes with."""

    kind: str
    base: str


class Lora(Offered):
    """A LoRA, and the models that it goes with."""

    models: list[str]


class Upscaler(Offered):
    """An upscaler, which is bicubic without weights."""

    has_weights: bool


class Capabilities(BaseModel):
    """What a server can do."""

    name: Literal["Atelier"]
    models: list[Model]
    controlnets: list[ControlNet]
    loras: list[Lora]
    upscalers: list[Upscaler]
