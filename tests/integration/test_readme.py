"""The code blocks of the README and of the pages that it links to: shell and Python run, make targets exist."""

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
from zoo.scenes import Colour, Description, Thing

_ROOT = Path(__file__).parents[2]
_README, _QUICKSTART, _HTTP, _HANDLES = "README.md", "docs/quickstart.md", "docs/http.md", "docs/handles.md"
_ADDRESS = "http://127.0.0.1:8000"
_SQUARE = (128, 128)

_BLUE = Thing(colour="blue", shape="circle", place="left")
_CIRCLE = Description(things=(replace(_BLUE, colour="red"),), background="white")
_STAR = Description(things=(Thing(colour="red", shape="star", size="large", place="left"),), background="white")

#: Files of a stream's previews; one that is not ready before the image is left out.
_PREVIEWS = {"preview-0.png": _SQUARE, "preview-1.png": _SQUARE}
#: The other files that the Python blocks of each page write, and the sizes of the images among them.
_WRITTEN = {
    _README: {"7.png": _SQUARE, "8.png": _SQUARE, "star.png": _SQUARE},
    _QUICKSTART: {
        "star.png": _SQUARE,
        "blue.png": _SQUARE,
        "mask.png": _SQUARE,
        "edited.png": _SQUARE,
        "along.png": _SQUARE,
        "large.png": (384, 384),
        "cross.png": _SQUARE,
        "triangle.png": _SQUARE,
    },
    _HANDLES: {
        "star.png": _SQUARE,
        "blue.png": _SQUARE,
        "varied.png": _SQUARE,
        "large.png": (512, 512),
        "edges.png": _SQUARE,
        "job.png": _SQUARE,
        "cross.png": _SQUARE,
        "ring.png": _SQUARE,
    },
}


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (_ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", _WRITTEN)
def test_python_blocks_write_their_images(
    page: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Each block of the README runs on its own; the blocks of any other page share their variables.
    shared: dict[str, object] = {}
    for block in _blocks(page, "python"):
        exec(block.replace(_ADDRESS, address), {} if page == _README else shared)
    written = {}
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            written[file.name] = image.size
    assert written | _PREVIEWS == _WRITTEN[page] | _PREVIEWS
    if page in (_QUICKSTART, _HANDLES):
        for name, expected in (("star.png", _STAR), ("blue.png", _coloured(_STAR, "blue"))):
            assert judge(Image.open(tmp_path / name), expected).is_right


def test_every_page_with_python_is_run() -> None:
    pages = [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")]
    with_python = {str(page.relative_to(_ROOT)) for page in pages if "```python" in page.read_text()}
    assert with_python == {*_WRITTEN, "docs/clients.md"}  # which test_clients.py runs
    assert {str(page.relative_to(_ROOT)) for page in pages if "```sh" in page.read_text()} == {
        _README,
        _QUICKSTART,
        _HTTP,
    }


def _run(block: str, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell block; each curl prints its response to stdout and its status to stderr, each with a newline."""
    with_status = r"""curl() { command curl -w '%{stderr}%{http_code}\n%{stdout}\n' "$@"; }"""
    script = f"{with_status}\n{block.replace(_ADDRESS, address)}"
    return subprocess.run(
        ["bash", "-euc", script], check=True, capture_output=True, text=True, timeout=60, cwd=folder
    )


@pytest.mark.parametrize("page", [_README, _QUICKSTART])
def test_the_first_example_returns_a_url(page: str, address: str, tmp_path: Path) -> None:
    [block] = _blocks(page, "sh")
    answer = _run(block, address, tmp_path)
    assert answer.stderr.split() == ["200"]
    assert json.loads(answer.stdout)["data"][0]["url"].startswith(address)


def test_every_curl_line_has_its_status(address: str, tmp_path: Path) -> None:
    [block] = _blocks(_HTTP, "sh")
    ran = _run(block, address, tmp_path)
    assert ran.stderr.split() == [_status(line) for line in _curls()]
    assert judge(Image.open(tmp_path / "circle.png"), _CIRCLE).is_right
    lines = ran.stdout.splitlines()
    assert "event: image_generation.completed" in lines
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    _, edited, varied, edges, large, inspected, enhanced, *_ = answers
    assert judge(_image(edited["data"][0]["b64_json"]), _coloured(_CIRCLE, "blue")).is_right
    assert len(varied["data"]) == 2
    assert edges["kind"] == "canny"
    assert _image(large["data"][0]["b64_json"]).size == (256, 256)
    assert inspected["parameters"]["seed"] == 7
    assert _image(enhanced["image"].partition(",")[2]).size == (512, 512)
    assert judge(Image.open(tmp_path / "job.png"), _CIRCLE).is_right
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "simple.png") as simple:
        assert (sheet.width > 3 * 128, simple.size) == (True, _SQUARE)


async def test_there_is_a_curl_line_for_every_address(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address) as client:
        document = (await client.get("/openapi.json")).json()
    served = [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "501" not in operation["responses"] or {"200", "202"} & operation["responses"].keys() or method == "delete"
    ]
    assert [one for one in served if not any(_calls(line, *one) for line in _curls())] == []
    assert len(served) == 45


def _curls() -> list[str]:
    return [line for line in _blocks(_HTTP, "sh")[0].splitlines() if line.startswith("curl")]


def _status(line: str) -> str:
    """The status in the comment at the end of the line; without one, that of a success."""
    commented = re.search(r"  # (\d{3}): ", line)
    return "200" if commented is None else commented[1]


def _calls(line: str, method: str, path: str) -> bool:
    """Whether the curl command sends this method to this path."""
    implied = "POST" if re.search(r" -[dF] ", line) else "GET"
    asked = next(iter(re.findall(r"-X (\w+)", line)), implied)
    place = re.sub(r"{\w+}", "[^ /]+", path)
    return asked == method and re.search(rf"(\$atelier|GET ){place}( |$)", line) is not None


def _image(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def _coloured(description: Description, colour: Colour) -> Description:
    """The description of a single `Thing`, with that in another colour."""
    [thing] = description.things
    return replace(description, things=(replace(thing, colour=colour),))


def test_make_targets_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^make ([\w-]+)", "\n".join(_blocks(_README, "console")), flags=re.MULTILINE))
    [phony] = re.findall(r"^\.PHONY: (.+)$", (_ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert targets == set(phony.split()) - {"setup"}
    for target in targets:
        subprocess.run(["make", "-n", target], check=True, capture_output=True, cwd=_ROOT)
