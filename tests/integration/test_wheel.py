"""The wheel as another Ray app installs it: without extras, beside nothing but its base dependencies."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.integration.wheel import build_wheel

_SCRIPT = """
import sys
from atelier.core.params import GenerateParams
print(GenerateParams(prompt="a red circle").prompt)
for name in ("torch", "ray", "fastapi", "PIL"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        print("no", name)
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return build_wheel(tmp_path)


def _needed(requirements: list[str], extras: set[str]) -> Iterator[importlib.metadata.Distribution]:
    """The installed distributions that the requirements name, directly or through their own requirements."""
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            found = importlib.metadata.distribution(requirement.name)
            yield found
            yield from _needed(found.requires or [], {"", *requirement.extras})


def _install(distributions: Iterable[importlib.metadata.Distribution], site: Path) -> None:
    """Link the packages of these distributions, and nothing else of their environment, into the folder `site`."""
    for distribution in distributions:
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def test_params_are_imported_without_model_or_web_libraries(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    [metadata] = importlib.metadata.distributions(name="atelier", path=[str(site)])
    _install({one.name: one for one in _needed(metadata.requires or [], {""})}.values(), site)
    # -S leaves out the site-packages of this environment.
    ran = subprocess.run(
        [sys.executable, "-S", "-c", _SCRIPT],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        timeout=60,
    )
    assert ran.stdout.splitlines() == ["a red circle", "no torch", "no ray", "no fastapi", "no PIL"]
