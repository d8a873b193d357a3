"""The number of Denoisers that is wanted, by the work that they have recorded."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig

from deployments.scaling import WORK_S, ByWork


@pytest.mark.parametrize(
    ("recorded", "wanted"),
    [({WORK_S: {"a": 30.0, "b": 15.0}}, 4.5), ({WORK_S: {"a": 0.0}}, 0), ({}, 0), (None, 0)],
)
def test_each_replica_has_the_wanted_work(recorded: dict[str, Any] | None, wanted: float) -> None:
    assert ByWork(target_s=10)(SimpleNamespace(aggregated_metrics=recorded)) == (wanted, {})


@pytest.mark.parametrize("target_s", [0, -1])
def test_a_target_must_be_positive(target_s: float) -> None:
    with pytest.raises(ValueError, match=f"target_s = {target_s}"):
        ByWork(target_s)


def test_the_policy_reaches_a_controller_that_does_not_have_the_project() -> None:
    policy = {"policy_function": "deployments.scaling:ByWork", "policy_kwargs": {"target_s": 5}}
    sent = AutoscalingConfig(policy=policy).policy.get_serialized_policy_def()
    assert sent is not None
    without = "import sys; sys.modules.update(dict.fromkeys(['deployments', 'atelier']))"
    load = f"from ray import cloudpickle; print(cloudpickle.loads({sent!r})(target_s=5).wanted(20))"
    ran = subprocess.run([sys.executable, "-c", f"{without}; {load}"], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["4.0"]
