"""deploy/Dockerfile without a Docker: what it copies is in the context, and its wheel is built from nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.wheel import pip

_ROOT = Path(__file__).parents[2]
_WAIT_S = 120


class Instruction(NamedTuple):
    stage: int
    name: str
    text: str


def _instructions() -> list[Instruction]:
    lines = (_ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    stage, found = -1, []
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, " ".join(rest.split())))
    return found


def _copied(stage: int) -> list[list[str]]:
    """The words of each COPY from the context, without options; the last one is the target."""
    texts = [one.text for one in _instructions() if one.name == "COPY" and one.stage == stage]
    return [[word for word in text.split() if not word.startswith("--")] for text in texts if "--from=" not in text]


def _is_ignored(path: Path) -> bool:
    """Whether .dockerignore leaves a path of the repository out of the context. The last match decides."""
    is_ignored = False
    for line in (_ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, part.as_posix()) for part in (path, *path.parents)):
            is_ignored = not line.startswith("!")
    return is_ignored


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Docker would send to its daemon: the repository without the files that .dockerignore names."""
    folder = tmp_path_factory.mktemp("context")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=_ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in map(Path, names):
        if (_ROOT / name).is_file() and not _is_ignored(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / name, folder / name)
    return folder


def test_the_context_has_what_is_copied_and_no_more(context: Path) -> None:
    sources = {source for stage in (0, 1) for *words, _ in _copied(stage) for source in words}
    assert {source for source in sources if not (context / source).exists()} == set()
    assert {path.name for path in context.iterdir()} == sources


def test_files_of_the_machine_stay_out_of_the_image() -> None:
    for name in (
        ".git/config",
        ".venv/bin/python",
        "zoo/.training/images.pt",
        "atelier/__pycache__/x.pyc",
        "notes.txt",
    ):
        assert _is_ignored(Path(name)), name
    assert not _is_ignored(Path("zoo/weights/tiny-x4/model.safetensors"))


@pytest.mark.slow
def test_the_wheel_of_the_image_is_built_from_the_context_and_imported(context: Path, tmp_path: Path) -> None:
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    source.mkdir()
    for *words, target in _copied(0):
        for word in words:
            place = source / word if target == "./" else source / target
            (shutil.copytree if (context / word).is_dir() else shutil.copy)(context / word, place)
    first, build = [one.text for one in _instructions() if one.name == "RUN" and one.stage == 0]
    assert first == "pip install --no-cache-dir $(grep '^setuptools==' requirements.txt)"  # which is installed here
    command = build.replace("pip ", f"{sys.executable} -m pip ", 1).replace("/wheels", str(wheels))
    subprocess.run(["bash", "-euc", command], cwd=source, check=True, capture_output=True, timeout=_WAIT_S)
    [wheel] = wheels.iterdir()
    pip(["install", "--quiet", "--no-deps", "--target", str(site), str(wheel)])
    script = (
        "import graph, deployments.run, atelier.models.fetch; print(graph.__file__, len(graph.GraphArgs().models))"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
    )
    assert ran.stdout.split() == [str(site / "graph.py"), "1"]


def test_the_image_runs_as_a_user_with_the_settings_of_the_server() -> None:
    last = [one for one in _instructions() if one.stage == 1]
    users = [one.text for one in last if one.name == "USER"]
    assert users == ["atelier"]
    [environment] = [dict(re.findall(r"(\w+)=(\S+)", one.text)) for one in last if one.name == "ENV"]
    assert environment["RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS"] == "1"
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "deployments.proxy:middleware"
    assert environment["ATELIER_MODELS_DIR"] == "/models"
    runs = " ".join(one.text for one in last if one.name == "RUN")
    assert f"libtcmalloc_minimal.so.4 {environment['LD_PRELOAD']}" in runs


def test_the_image_has_the_pinned_torch_and_the_python_of_the_project() -> None:
    torch = next(one.text for one in _instructions() if one.name == "RUN" and "torch==" in one.text)
    assert "$(grep '^torch==' /tmp/requirements.txt)" in torch
    assert torch.endswith("&& pip install --no-cache-dir -r /tmp/requirements.txt")
    bases = {one.text.partition(" AS ")[0] for one in _instructions() if one.name == "FROM"}
    assert bases == {"python:3.11-slim-bookworm"}
    assert tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11"
