"""The README's code does what it says: its Python and shell blocks run, its make targets exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _README, flags=re.DOTALL)


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def test_the_python_examples_write_their_pictures(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in _blocks("python"):
        exec(block.replace("http://127.0.0.1:8000", address), {})
    written = {file.name: _size(file) for file in tmp_path.iterdir()}
    assert written == {"7.png": (128, 128), "8.png": (128, 128), "star.png": (128, 128), "along.png": (128, 128)}


def test_the_shell_example_answers_a_url(address: str) -> None:
    [block] = _blocks("sh")
    answer = subprocess.run(
        ["bash", "-ec", block.replace("http://127.0.0.1:8000", address)], check=True, capture_output=True, timeout=60
    )
    assert json.loads(answer.stdout)["data"][0]["url"].startswith(address)


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^make ([\w-]+)", "\n".join(_blocks("console")), flags=re.MULTILINE))
    assert targets == {"run", "test", "test-fast", "check", "zoo"}
    for target in targets:
        subprocess.run(["make", "-n", target], check=True, capture_output=True, cwd=_ROOT)
