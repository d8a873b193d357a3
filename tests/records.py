"""What the edge gives the pipeline: a record for each request, and the stages as one request calls them."""

from __future__ import annotations

import math

from atelier.core.denoising import RequestId
from atelier.pipeline.deadline import Deadline
from atelier.pipeline.record import RequestRecord
from atelier.pipeline.request_stages import RequestStages
from atelier.pipeline.stages import Stages


def new_record(request_id: str = "req_0") -> RequestRecord:
    return RequestRecord(request_id=RequestId(request_id), endpoint="test")


def request_stages(
    stages: Stages, record: RequestRecord | None = None, *, deadline_s: float = math.inf
) -> RequestStages:
    """Must be called in a running event loop, whose clock the deadline is measured by."""
    return RequestStages(stages, record or new_record(), Deadline(None, default_s=deadline_s))
