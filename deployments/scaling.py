"""How many Denoisers there should be: as many as finish the work that is there within a given time.

Set `autoscaling_config` in a Serve config to use it:

    policy: {policy_function: "deployments.scaling:ByWork", policy_kwargs: {target_s: 10}}

Serve sends this module to its controller by value, so it imports nothing of the project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

#: Name of the statistic that Denoisers record: the seconds in which a replica would finish all that it has.
WORK_S = "work_s"


class ByWork:
    """An autoscaling policy of Serve, whose bounds, factors and delays apply to what it returns."""

    def __init__(self, target_s: float = 10.0) -> None:
        """Want so many replicas that each has `target_s` seconds of work.

        Raises ValueError if `target_s` is not positive.
        """
        if target_s <= 0:
            raise ValueError(f"target_s = {target_s} must be positive")
        self._target_s = target_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas that are wanted, and no state."""
        recorded = (context.aggregated_metrics or {}).get(WORK_S, {})
        return self.wanted(sum(recorded.values())), {}

    def wanted(self, work_s: float) -> float:
        """Return the number of replicas for so much work, a fraction."""
        return work_s / self._target_s
