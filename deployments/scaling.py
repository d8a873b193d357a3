"""How many Denoisers there should be: as many as finish the work that is there within a given time.

Set `autoscaling_config` in a Serve config to use it:

    policy: {policy_function: "deployments.scaling:ByWork", policy_kwargs: {target_s: 10}}

Serve sends this module to its controller by value, so it imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

#: Name of the statistic that Denoisers record: the seconds in which a replica would finish all that it has.
WORK_S = "work_s"


class ByWork:
    """An autoscaling policy of Serve, whose bounds, factors and delays apply to what it returns.

    The number goes up with the work at once and down slowly, so that a quiet moment stops no replicas that are wanted
    again a moment later.
    """

    def __init__(self, target_s: float = 10.0, half_life_s: float = 300.0) -> None:
        """Want so many replicas that each has `target_s` seconds of work; down by half in `half_life_s` at most.

        Raises ValueError if one is not positive.
        """
        if target_s <= 0 or half_life_s <= 0:
            raise ValueError(f"target_s = {target_s} and half_life_s = {half_life_s} must be positive")
        self._target_s, self._half_life_s = target_s, half_life_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas that are wanted, and what the next call must know."""
        recorded = (context.aggregated_metrics or {}).get(WORK_S, {})
        return self.wanted(sum(recorded.values()), context.current_time or 0.0, context.policy_state)

    def wanted(self, work_s: float, now_s: float, state: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas for so much work, a fraction, and the next state; `{}` is the first."""
        decay = 0.5 ** ((now_s - state.get("at_s", now_s)) / self._half_life_s)
        lately_s = max(work_s, decay * state.get("work_s", 0.0))
        return lately_s / self._target_s, {"work_s": lately_s, "at_s": now_s}
