"""A cluster of three nodes loses replicas of each deployment in turn and a node while clients send requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.replicas import STAGES

_ROOT = Path(__file__).parents[2]
_NAMES = (*STAGES, "Router")


@pytest.mark.long
def test_every_request_is_answered_right_and_soon() -> None:
    script = "import json; from benchmarks.chaos import measured; print(json.dumps(measured()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    numbers = json.loads(done.stdout.splitlines()[-1])
    answers = {
        name: count for name, count in numbers.items() if ": " in name and not name.endswith((", s", "clients"))
    }
    assert {name.partition(": ")[2] for name in answers} <= {"right", "right when sent again"}
    assert {name.partition(": ")[0] for name in answers} >= {
        f"{how} {name}" for how in ("dead", "frozen") for name in _NAMES
    }
    assert numbers["dead: median, s"] < 3
    assert numbers["frozen: longest, s"] < 15
