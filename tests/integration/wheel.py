"""Build the wheel of this working tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_NOT_COPIED = shutil.ignore_patterns(
    ".venv", ".git", ".training", "build", "*.egg-info", ".*_cache", "__pycache__", "node_modules"
)
_WAIT_S = 90


def build_wheel(folder: Path) -> Path:
    """Build the wheel in `folder`, from a copy because setuptools writes into the tree that it builds from."""
    source = folder / "source"
    shutil.copytree(_ROOT, source, ignore=_NOT_COPIED)
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    pip(command)
    shutil.rmtree(source)
    [wheel] = folder.glob("atelier-*.whl")
    return wheel


def pip(arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=_WAIT_S, check=False
    )
    assert ran.returncode == 0, f"pip {arguments}: {ran.stdout}\n{ran.stderr}"
