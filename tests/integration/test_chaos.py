"""A cluster of three nodes loses replicas, a Router and a node while clients send requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_LOSSES = ("dead_stages", "frozen_stages", "dead_router", "dead_node")
#: Names of the counts that `benchmarks.chaos` may return for the answers to requests.
_RIGHT, _RETRYABLE = "right", "retryable_error"


@pytest.mark.long
def test_every_request_is_answered_right_or_can_be_sent_again() -> None:
    script = "import json; from benchmarks.chaos import measured; print(json.dumps(measured()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    numbers = json.loads(done.stdout.splitlines()[-1])
    others = {f"{loss}_{name}" for loss in _LOSSES for name in ("share_right", "slowest_s", "recovery_s")}
    answers = {name: count for name, count in numbers.items() if name not in others}
    assert set(answers) <= {f"{loss}_{kind}" for loss in _LOSSES for kind in (_RIGHT, _RETRYABLE)}
    assert all(numbers[f"{loss}_share_right"] >= 0.99 for loss in ("dead_stages", "frozen_stages"))
    assert all(answers[f"{loss}_{_RIGHT}"] > 0 for loss in _LOSSES)
