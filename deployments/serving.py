"""Serve's options that every deployment of the graph shares; `deployments:` in a config overrides them."""

from __future__ import annotations

from typing import TypedDict

from ray.serve.config import BackpressureConfig


class SharedOptions(TypedDict):
    health_check_period_s: float
    health_check_timeout_s: float
    graceful_shutdown_timeout_s: float
    max_queued_requests: int
    backpressure_config: BackpressureConfig


SHARED = SharedOptions(
    # A crash is seen within one period, a hang after three failed checks.
    health_check_period_s=2.0,
    health_check_timeout_s=10.0,
    # Draining outlasts the longest generation.
    graceful_shutdown_timeout_s=300.0,
    # A full queue is 429 at once, not a wait.
    max_queued_requests=1000,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
)
