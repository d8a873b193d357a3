"""A graph below a route prefix, with a default of its own for how images are returned."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import httpx2
import openai
import pytest
from PIL import Image
from ray import serve

from deployments.options import GraphArgs, RouterOptions
from graph import build


@pytest.fixture
def below(address: str) -> Iterator[str]:
    """The address of a second graph, which runs during one test."""
    args = GraphArgs(router=RouterOptions(default_response_format="url"))
    serve.run(build(args), name="below", route_prefix="/sdxl")
    yield f"{address}/sdxl"
    serve.delete("below")


@pytest.mark.long
def test_a_graph_below_a_prefix_is_whole(below: str) -> None:
    with openai.OpenAI(base_url=f"{below}/v1", api_key="none") as client:
        answer = client.images.generate(prompt="a red circle", size="64x64", extra_body={"num_inference_steps": 1})
    assert answer.data is not None
    [image] = answer.data
    assert image.b64_json is None
    assert image.url is not None
    assert image.url.startswith(f"{below}/v1/images/files/")
    assert Image.open(io.BytesIO(httpx2.get(image.url).content)).size == (64, 64)
    page = httpx2.get(f"{below}/docs")
    links = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)
    assert len(links) == 4
    for target in map("".join, links):
        assert httpx2.get(str(page.url.join(target))).status_code == 200
