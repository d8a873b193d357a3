"""What replicas report for routing, as it travels through Serve."""

from __future__ import annotations

import json

from atelier.core.work import UNMEASURED, Load, StepTime
from atelier.pipeline.placing import Report
from deployments.routing import report_of, stats_of


def test_a_report_arrives_as_it_was_sent() -> None:
    key = ("tiny-sdxl", "128x128", "fast")
    report = Report(
        loads={("batch", key): Load(2, 32768, 40), ("standard", key): Load(1, 16384, 20)},
        loras=["a", "b"],
        step_time=StepTime(0.01, 1e-7),
    )
    assert report_of(json.loads(json.dumps(stats_of(report)))) == report


def test_a_replica_that_has_not_reported_is_idle() -> None:
    assert report_of({}) == Report(loads={}, loras=(), step_time=UNMEASURED)
