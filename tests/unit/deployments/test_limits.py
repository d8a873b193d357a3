"""The limits in a deployment's user_config."""

from __future__ import annotations

import logging

import pytest

from atelier.pipeline.pipeline import PipelineLimits
from deployments.limits import DenoiserLimits, ReplicaLimits, RouterLimits, changed
from deployments.stages import CallLimits


def test_limits_that_are_left_out_have_their_defaults() -> None:
    limits = changed(RouterLimits(max_wait_s=5), {"max_pixel_steps": 7})
    assert limits == RouterLimits(max_pixel_steps=7)


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"max_rows": 3}, "max_rows = 3: Input should be greater than or equal to 20"),
        ({"max_row": 32}, "max_row = 32: Extra inputs are not permitted"),
        ("fast", "Input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_logged_and_changes_nothing(
    caplog: pytest.LogCaptureFixture, user_config: object, message: str
) -> None:
    before = DenoiserLimits(max_waiting=9)
    assert changed(before, user_config) is before
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert message in record.getMessage()


def test_a_replica_has_no_other_limits() -> None:
    assert set(ReplicaLimits.model_fields) == {"stall_s"}
    assert changed(ReplicaLimits(), {"stall_s": 7}).stall_s == 7


def test_the_routers_limits_are_those_of_its_pipeline_and_of_its_calls() -> None:
    limits = RouterLimits(
        max_pixel_steps=1, max_wait_s=2, default_deadline_s=3, stage_deadline_s=4, stream_gap_s=5, max_body_bytes=6
    )
    assert limits.of_pipeline == PipelineLimits(max_pixel_steps=1, max_wait_s=2, default_deadline_s=3)
    assert limits.of_calls == CallLimits(stage_deadline_s=4, stream_gap_s=5)
