"""Numbers with the machine and commit they were measured on, printed and kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def record(name: str, numbers: dict[str, float | int]) -> None:
    """Print the numbers and write benchmarks/results/NAME.json."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result = {"benchmark": name, "machine": machine, "commit": commit, **numbers}
    text = json.dumps(result, indent=2)
    print(text)
    file = _ROOT / "benchmarks" / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text + "\n")
