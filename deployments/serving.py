"""Serve options that all deployments of the graph share; `deployments:` in a Serve config overrides them."""

from __future__ import annotations

from collections.abc import Mapping

from ray import serve
from ray.serve import Deployment
from ray.serve.config import BackpressureConfig

#: Limits by deployment, as `user_config` of a Serve config has them.
UserConfigs = Mapping[str, Mapping[str, object]]

#: A crash is detected within one period, a hang after three failed checks: 4.5 to 5.5 s.
_HEALTH_CHECK_PERIOD_S = 1.0
_HEALTH_CHECK_TIMEOUT_S = 1.5
#: Longer than the longest generation, so that draining a replica interrupts none.
_GRACEFUL_SHUTDOWN_TIMEOUT_S = 300.0
#: Number of calls to a deployment that may wait in one handle or proxy; others are rejected with status 429.
_MAX_QUEUED_REQUESTS = 1000


def node(replica: type, user_configs: UserConfigs, *, max_ongoing_requests: int, num_cpus: float) -> Deployment:
    """Create a deployment of the class, with the limits of that name.

    Ray reserves `num_cpus` per replica; with one replica of each deployment in `graph.build` that is one CPU.
    """
    return serve.deployment(
        replica,
        max_ongoing_requests=max_ongoing_requests,
        ray_actor_options={"num_cpus": num_cpus},
        user_config=user_configs.get(replica.__name__),
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=_GRACEFUL_SHUTDOWN_TIMEOUT_S,
        max_queued_requests=_MAX_QUEUED_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    )
