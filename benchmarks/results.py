"""Results of benchmarks, printed and written as JSON with the machine and commit they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def provenance(name: str) -> dict[str, str]:
    """Return a benchmark's name, the machine it runs on and the commit it measures, for its record."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"benchmark": name, "machine": machine, "commit": commit}


def record(name: str, numbers: Mapping[str, float | int | str]) -> None:
    """Print the numbers and write benchmarks/results/NAME.json."""
    text = json.dumps({**provenance(name), **numbers}, indent=2)
    print(text)
    file = _ROOT / "benchmarks" / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text + "\n")
