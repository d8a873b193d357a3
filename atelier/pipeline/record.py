"""What is known of a request when it ends, for its line in the log and for metrics.

The edge makes a record when the request arrives; the pipeline fills it in. It holds no prompt.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from atelier.core.denoising import RequestId
from atelier.core.geometry import Size
from atelier.pipeline.resolve import Plan

logger = logging.getLogger(__name__)

#: Names under which a request's times are recorded. The time in `queue` is also part of that in `denoise`.
StageName = Literal["encode_texts", "encode_latents", "annotate", "queue", "denoise", "decode_latents", "upscale"]


#: Status and code of a request whose client left before it was answered; nginx logs the same status.
CLIENT_LEFT, LEFT = 499, "client_left"


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request, from its arrival to its end."""

    request_id: RequestId
    #: HTTP method and route, such as "POST /v1/images/generations", or "handle" and the Router's method.
    endpoint: str
    #: HTTP status of the answer; a handle call has the one that HTTP would report. 499 if the client left before it.
    status: int = CLIENT_LEFT
    #: Code of the error that ended the request; also set where a stream has sent status 200 before it failed.
    code: str | None = None
    model: str | None = None
    size: Size | None = None
    num_images: int | None = None
    #: Number of steps over all passes.
    num_steps: int | None = None
    #: Number of calls that were repeated because a replica was lost.
    num_repeats: int = 0
    #: Id of the equal request whose generation this one shared.
    shared_with: RequestId | None = None
    #: Seconds by stage. Calls of one stage are added up, also where they ran side by side.
    stage_s: dict[StageName, float] = field(default_factory=lambda: defaultdict(float))
    #: Whether its images came from the cache.
    is_cached: bool = False
    _start_s: float = field(default_factory=time.perf_counter)

    @property
    def total_s(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self._start_s

    @contextmanager
    def timed(self, stage: StageName) -> Iterator[None]:
        """Add the time of the body to a stage."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.stage_s[stage] += time.perf_counter() - start_s

    def plan(self, plan: Plan) -> None:
        """Record what the request will make."""
        self.model, self.size, self.num_images = plan.model, plan.image_size, len(plan.seeds)
        self.num_steps = sum(pass_.sampling.num_evaluations for pass_ in plan.passes)

    def fields(self) -> dict[str, object]:
        """Return what is known, by name, in the units that the names say; what is not known is left out."""
        known: dict[str, object | None] = {
            "request_id": self.request_id,
            "endpoint": self.endpoint,
            "status": self.status,
            "code": self.code,
            "total_s": round(self.total_s, 4),
            "model": self.model,
            "size": None if self.size is None else str(self.size),
            "images": self.num_images,
            "steps": self.num_steps,
            "repeats": self.num_repeats or None,
            "shared_with": self.shared_with,
            "cached": self.is_cached or None,
            **{f"{stage}_s": round(seconds, 4) for stage, seconds in self.stage_s.items()},
        }
        return {name: value for name, value in known.items() if value is not None}


#: Receives the record of a request when it has ended.
Observe = Callable[[RequestRecord], None]


def log_request(record: RequestRecord) -> None:
    """Write a request's line to the log at INFO; its fields are attributes of the log record, too."""
    fields = record.fields()
    logger.info("request %s", " ".join(f"{name}={value}" for name, value in fields.items()), extra=fields)
