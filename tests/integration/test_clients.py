"""Real clients of OpenAI's images API, with the graph: the blocks of docs/clients.md, and web pages in Chromium.

`make clients` installs them. Tests of a client that is not installed are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Thread

import pytest
from PIL import Image

from tests.integration.steps import Steps
from tests.pictures import decoded
from zoo.judge import judge
from zoo.scenes import Colour, Description, Thing, arrange, draw

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "tests" / "clients"
_PYTHON, _MODULES = _FOLDER / ".venv" / "bin" / "python", _FOLDER / "node_modules"
_ADDRESS = "http://127.0.0.1:8000"
_WAIT_S = 120
_SQUARE, _LARGE = (128, 128), (1024, 1024)

#: A URL or base64. Some clients print messages of their own as well.
_IMAGE_LINE = re.compile(r"^(?:http\S+|[\w+/]+=*)$", re.MULTILINE)
#: Blocks of the page by the heading above them: language and text.
_BLOCKS = {
    heading: (language, text)
    for heading, language, text in re.findall(
        r"^## ([^\n]+)\n(?:(?!^## |^```).)*^```(\w+)\n(.*?)^```",
        (_ROOT / "docs" / "clients.md").read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )
}


@dataclass(frozen=True)
class Client:
    """A block of the page, and the images that it prints."""

    heading: str
    #: Colour of the circle in each image.
    shown: tuple[Colour, ...]
    size: tuple[int, int] = _SQUARE
    #: Maximum number of previews that it prints before the last image; one that is not ready in time is left out.
    max_previews: int = 0


_CLIENTS = [
    Client("openai for Python", ("red", "blue")),
    Client("openai for Node", ("red", "blue", "red"), max_previews=2),
    Client("Vercel AI SDK", ("red", "red", "blue")),
    Client("AI SDK for compatible servers", ("red",)),
    Client("litellm", ("red", "blue")),
    Client("LangChain", ("red",), _LARGE),
    Client("LlamaIndex", ("red",), _LARGE),
    Client("Semantic Kernel", ("red", "blue")),
]
_WEB_PAGES = ["A web page", "openai in a web page"]


def _skipped(name: str, needed: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not needed.exists(), reason=f"{name} is not installed: make clients")


_NEEDS = {
    "python": _skipped("the environment of Python clients", _PYTHON),
    "js": _skipped("the folder of Node clients", _MODULES / "openai"),
}
_needs_chromium = _skipped("chromium", _MODULES / ".chromium" / "chromium")


def _circle(colour: Colour) -> Description:
    return Description(things=(Thing(colour=colour, shape="circle", place="left"),), background="white")


def test_every_block_of_the_page_is_run() -> None:
    assert list(_BLOCKS) == [*(client.heading for client in _CLIENTS), *_WEB_PAGES]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the image that blocks edit, in which Node finds the clients."""
    draw(arrange(_circle("red"), Random(0), width=128, height=128)).save(tmp_path / "circle.png")
    (tmp_path / "node_modules").symlink_to(_MODULES)
    return tmp_path


def _run(command: list[str | Path], folder: Path, **environment: str) -> str:
    """Run a command in the folder and return what it prints."""
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        cwd=folder,
        env=os.environ | environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.parametrize(
    "client",
    [pytest.param(one, marks=_NEEDS[_BLOCKS[one.heading][0]], id=one.heading) for one in _CLIENTS],
)
def test_a_client_draws_with_its_defaults(client: Client, address: str, folder: Path) -> None:
    language, text = _BLOCKS[client.heading]
    script = folder / {"python": "client.py", "js": "client.mjs"}[language]
    script.write_text(text.replace(_ADDRESS, address))
    printed = _run(
        ["node", script] if language == "js" else [_PYTHON, "-I", script],
        folder,
        OPENAI_BASE_URL=f"{address}/v1",
        OPENAI_API_KEY="none",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    images = [_image(line) for line in _IMAGE_LINE.findall(printed)]
    assert {image.size for image in images} == {client.size}
    first_preview = len(client.shown) - 1
    previews = images[first_preview:-1]
    assert len(previews) <= client.max_previews
    for image, colour in zip([*images[:first_preview], images[-1]], client.shown, strict=True):
        assert judge(image, _circle(colour)).is_right


def _image(printed: str) -> Image.Image:
    """The image of a URL or base64 text."""
    if printed.startswith("http"):
        with urllib.request.urlopen(printed) as file:
            return decoded(file.read())
    return decoded(printed)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Requests of files are not logged."""


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    """The port of a second server on this machine, which has the files of the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever).start()
        yield server.server_address[1]
        server.shutdown()


@dataclass(frozen=True)
class Shown:
    """What the page in Chromium shows, and what happened."""

    #: The PNG of the page's image as it is shown, in base64, or None after an error.
    shown: str | None
    #: The image's title: the id of the page's request.
    title: str | None
    errors: list[str]
    #: Statuses of the API's answers that the browser let the page have.
    statuses: list[int]


def _browse(html: str, host: str, folder: Path) -> Shown:
    (folder / "index.html").write_text(html)
    return Shown(**json.loads(_run(["node", _FOLDER / "browse.mjs", f"http://{host}/index.html"], folder)))


@_needs_chromium
@pytest.mark.parametrize("heading", _WEB_PAGES)
def test_a_page_of_another_port_shows_an_image(heading: str, address: str, folder: Path, port: int) -> None:
    page = _browse(_BLOCKS[heading][1].replace(_ADDRESS, address), f"localhost:{port}", folder)
    assert page.errors == []
    assert page.shown is not None
    assert judge(decoded(page.shown), _circle("red")).is_right
    assert page.title not in (None, "null")  # a header that the page may not read is null


@_needs_chromium
@pytest.mark.parametrize("heading", _WEB_PAGES)
def test_a_page_of_a_foreign_origin_gets_an_error_before_any_work(
    heading: str, address: str, steps: Steps, folder: Path, port: int
) -> None:
    before = asyncio.run(steps.done())
    page = _browse(_BLOCKS[heading][1].replace(_ADDRESS, address), f"example.test:{port}", folder)
    assert (page.shown, page.statuses, len(page.errors)) == (None, [], 1)
    assert asyncio.run(steps.done()) == before


@_needs_chromium
@pytest.mark.parametrize(("host", "status", "num_steps"), [("localhost", 200, 2), ("example.test", 403, 0)])
def test_a_form_that_is_sent_unasked_works_from_this_machine_only(
    host: str, status: int, num_steps: int, address: str, steps: Steps, folder: Path, port: int
) -> None:
    before = asyncio.run(steps.done())
    page = _browse((_FOLDER / "form.html").read_text().replace(_ADDRESS, address), f"{host}:{port}", folder)
    assert (page.statuses, page.errors) == ([status], ["The form is sent."])
    assert asyncio.run(steps.done()) - before == num_steps
