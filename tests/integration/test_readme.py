"""The README's code does what it says: its Python and shell blocks run, its make targets exist."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from zoo.judge import judge
from zoo.scenes import Description, Thing

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text()

_BLUE = Thing(colour="blue", shape="circle", place="left")
_CIRCLE = Description(things=(replace(_BLUE, colour="red"),), background="white")


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


def _run(block: str, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What each curl answers on a line of its own, the statuses on standard error."""
    told = r"""curl() { command curl -w '%{stderr}%{http_code}\n%{stdout}\n' "$@"; }"""
    script = f"{told}\n{block.replace('http://127.0.0.1:8000', address)}"
    return subprocess.run(
        ["bash", "-euc", script], check=True, capture_output=True, text=True, timeout=60, cwd=folder
    )


def test_the_first_example_answers_a_url(address: str, tmp_path: Path) -> None:
    answer = _run(_blocks("sh")[0], address, tmp_path)
    assert json.loads(answer.stdout)["data"][0]["url"].startswith(address)


def test_every_line_of_curl_answers(address: str, tmp_path: Path) -> None:
    ran = _run(_blocks("sh")[1], address, tmp_path)
    assert ran.stderr.split() == ["403" if " DELETE " in line else "200" for line in _curls()]
    assert judge(Image.open(tmp_path / "circle.png"), _CIRCLE).is_right
    lines = ran.stdout.splitlines()
    assert "event: image_generation.completed" in lines
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    _, edited, varied, edges, large, told, enhanced, *_ = answers
    assert judge(_picture(edited["data"][0]["b64_json"]), replace(_CIRCLE, things=(_BLUE,))).is_right
    assert len(varied["data"]) == 2
    assert edges["kind"] == "canny"
    assert _picture(large["data"][0]["b64_json"]).size == (256, 256)
    assert told["parameters"]["seed"] == 7
    assert _picture(enhanced["image"].partition(",")[2]).size == (512, 512)


async def test_there_is_a_line_for_every_address(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address) as client:
        document = (await client.get("/openapi.json")).json()
    served = [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "501" not in operation["responses"] or "200" in operation["responses"] or method == "delete"
    ]
    assert [one for one in served if not any(_is_of(line, *one) for line in _curls())] == []
    assert len(served) == 15


def _curls() -> list[str]:
    return [line for line in _blocks("sh")[1].splitlines() if line.startswith("curl")]


def _is_of(line: str, method: str, path: str) -> bool:
    implied = "POST" if re.search(r" -[dF] ", line) else "GET"
    asked = next(iter(re.findall(r"-X (\w+)", line)), implied)
    place = re.sub(r"{\w+}", "[^ /]+", path)
    return asked == method and re.search(rf"(\$atelier|GET ){place}( |$)", line) is not None


def _picture(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^make ([\w-]+)", "\n".join(_blocks("console")), flags=re.MULTILINE))
    assert targets == {"run", "test", "test-fast", "check", "zoo"}
    for target in targets:
        subprocess.run(["make", "-n", target], check=True, capture_output=True, cwd=_ROOT)
