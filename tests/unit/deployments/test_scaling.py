"""The number of Denoisers that is wanted, by the work that they have recorded."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig

from deployments.scaling import WORK_S, ByWork


def _context(recorded: dict[str, Any] | None, now_s: float = 0.0, state: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(aggregated_metrics=recorded, current_time=now_s, policy_state=state or {})


@pytest.mark.parametrize(
    ("recorded", "wanted"),
    [({WORK_S: {"a": 30.0, "b": 15.0}}, 4.5), ({WORK_S: {"a": 0.0}}, 0), ({}, 0), (None, 0)],
)
def test_each_replica_has_the_wanted_work(recorded: dict[str, Any] | None, wanted: float) -> None:
    number, _ = ByWork(target_s=10)(_context(recorded))
    assert number == wanted


def test_the_number_goes_up_at_once_and_down_by_half_a_minute() -> None:
    policy, numbers = ByWork(target_s=10, half_life_s=60), []
    state: dict[str, Any] = {}
    for now_s, work_s in ((1000, 40.0), (1010, 80.0), (1070, 0.0), (1130, 30.0), (1190, 0.0), (2000, 0.0)):
        number, state = policy(_context({WORK_S: {"a": work_s}}, now_s, state))
        numbers.append(round(number, 3))
    assert numbers == [4, 8, 4, 3, 1.5, 0]


@pytest.mark.parametrize("settings", [{"target_s": 0}, {"target_s": -1}, {"half_life_s": 0}])
def test_settings_must_be_positive(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ByWork(**settings)


def test_the_policy_reaches_a_controller_that_does_not_have_the_project() -> None:
    policy = {"policy_function": "deployments.scaling:ByWork", "policy_kwargs": {"target_s": 5}}
    sent = AutoscalingConfig(policy=policy).policy.get_serialized_policy_def()
    assert sent is not None
    without = "import sys; sys.modules.update(dict.fromkeys(['deployments', 'atelier']))"
    load = f"from ray import cloudpickle; print(cloudpickle.loads({sent!r})(target_s=5).wanted(20.0, 0.0, {{}})[0])"
    ran = subprocess.run([sys.executable, "-c", f"{without}; {load}"], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["4.0"]
