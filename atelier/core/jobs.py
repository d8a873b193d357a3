"""Durable jobs: what is known of one, and the states it goes through.

    state      │ next state, and what leads there
    ───────────┼──────────────────────────────────────────────────────────────────────────────
    queued     │ running    a worker claims it: the one that is due first
               │ failed     its deadline passes
               │ cancelled  its owner cancels it
    running    │ succeeded  its files are stored
               │ failed     it ends with an error that a repetition would not change, too often
               │            with another one, or its deadline passes, or two workers died with it
               │ cancelled  its owner cancels it; the worker stops within a step
               │ queued     its worker dies, is stopped, or gets an error that may pass
    succeeded, failed and cancelled are final

Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NewType

from atelier.core.priority import PRIORITIES, Priority
from atelier.core.webhooks import NewWebhook

JobId = NewType("JobId", str)
#: Name of a worker, which no other one has had before.
WorkerId = NewType("WorkerId", str)
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
#: The states in which a job stays.
FINAL: tuple[JobState, ...] = ("succeeded", "failed", "cancelled")
#: What a job does that makes images, by the name of the Router's method.
ImageOperation = Literal["generate", "edit", "variation", "upscale", "annotate"]
#: What a job does.
Operation = Literal[ImageOperation, "download"]
#: An object that can be written as JSON.
Json = Mapping[str, object]

#: A job that was there when this many workers died is not tried again.
MAX_DEATHS = 2
#: Seconds by which one point of `rank` brings a job forward.
_S_PER_RANK = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as it is handed in."""

    #: Who may see it. Empty where there is no authentication.
    owner: str = ""
    operation: Operation
    #: The fields of the operation with nothing open, which make the same images again. Input images are named.
    params: Json
    #: Predicted work, in the unit of the operation: pixels × steps × images, or pixels.
    work: float
    priority: Priority = "standard"
    #: From −100 to 100. With each point a job is due a minute earlier.
    rank: int = 0
    #: Seconds from now in which it must be finished; None for no limit.
    deadline_s: float | None = None
    #: Seconds from now before which it is not claimed.
    delay_s: float = 0.0
    #: A name of the client's own. Handing in the same job with the same key again returns the first one.
    idempotency_key: str | None = None
    #: Hash of what the client sent, by which a job with the same key is known to be the same.
    fingerprint: str = ""
    #: Number of previews that are made while it runs.
    num_previews: int = 0
    #: The batch that it belongs to, and its place there.
    batch: str | None = None
    cell: Json | None = None
    #: Where the job is sent when it has ended.
    webhook: NewWebhook | None = None

    def due_at(self, now: float) -> float:
        """Return when the job is due: the order in which jobs are claimed."""
        patience_s = PRIORITIES[self.priority].patience_s
        limit_s = patience_s if self.deadline_s is None else min(patience_s, self.deadline_s)
        return now + self.delay_s + limit_s - self.rank * _S_PER_RANK


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How far a download is."""

    #: Number of bytes that are on this machine, those of earlier attempts included.
    done_bytes: int
    total_bytes: int
    #: Average speed of this attempt; None before the first byte.
    bytes_per_s: float | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last byte has arrived, at the speed so far; None while that is unknown."""
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s if self.bytes_per_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running job is."""

    #: Number of steps that are done, over all passes; of a download, the number of files.
    step: int
    total: int
    #: Seconds since its work began.
    elapsed_s: float
    #: Names of the files of the latest previews, one per image.
    previews: tuple[str, ...] = ()
    #: Bytes of a download.
    transfer: Transfer | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step or byte is done, at the speed so far; None before the first one."""
        if self.transfer is not None:
            return self.transfer.eta_s
        return self.elapsed_s / self.step * (self.total - self.step) if self.step else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed: the fields of the error that a direct request would get."""

    message: str
    type: str
    code: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it is stored."""

    id: JobId
    owner: str
    operation: Operation
    params: Json
    work: float
    priority: Priority
    rank: int
    state: JobState
    created_at: float
    #: When it is due: jobs are claimed in this order.
    due_at: float
    #: When it must be finished; None for no limit.
    deadline_at: float | None
    #: When it was first claimed.
    started_at: float | None
    finished_at: float | None
    #: Number of times it was claimed.
    attempts: int
    #: Number of workers that died while they had it.
    deaths: int
    is_cancel_requested: bool
    progress: Progress | None
    #: The outcome of a job that succeeded; its files are named.
    result: Json | None
    #: Why a job failed.
    error: JobError | None
    num_previews: int = 0
    batch: str | None = None
    cell: Json | None = None
    has_webhook: bool = False

    @property
    def image_files(self) -> list[str]:
        """Names of the files of its images, in their order; empty until it has succeeded."""
        return _names(self.result, "images")

    @property
    def files(self) -> list[str]:
        """Names of all files that it has made: images, control maps, and the latest previews."""
        previews = () if self.progress is None else self.progress.previews
        return [*self.image_files, *_names(self.result, "control_maps"), *previews]


def _names(result: Json | None, kind: str) -> list[str]:
    files = None if result is None else result.get(kind)
    return [str(one["file"]) for one in files] if isinstance(files, list) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """A change of a job's state."""

    job_id: JobId
    owner: str
    #: Number of the event among those of its job, from 1.
    number: int
    at: float
    state: JobState
    #: Number of times the job had been claimed.
    attempts: int
