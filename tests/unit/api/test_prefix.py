"""The application below a route prefix, as Serve's `route_prefix` or another application mounts it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from tests.pictures import decoded

_BODY = {"prompt": "x", "size": "64x64", "num_inference_steps": 1, "response_format": "url"}


def _client(app: ASGIApp) -> httpx2.AsyncClient:
    below = Starlette(routes=[Mount("/sdxl", app)])
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(below), base_url="http://test/sdxl")


@pytest.fixture
async def below(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    async with _client(app) as http:
        yield http


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/small-sdxl", "/docs"]
)
async def test_every_address_answers_below_a_prefix(below: httpx2.AsyncClient, path: str) -> None:
    assert (await below.get(path)).status_code == 200


async def test_paths_in_answers_have_the_prefix(below: httpx2.AsyncClient) -> None:
    assert (await below.get("/")).json()["documentation"] == "/sdxl/docs"
    missing = await below.get("/v1/nothing")
    assert missing.json()["error"]["message"] == "There is nothing at /sdxl/v1/nothing. See /sdxl/docs."
    wrong = await below.get("/v1/images/edits")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (await below.get("/openapi.json")).json()["servers"] == [{"url": "/sdxl"}]


async def test_an_image_is_behind_the_address_that_the_client_used(below: httpx2.AsyncClient) -> None:
    [image] = (await below.post("/v1/images/generations", json=_BODY)).json()["data"]
    assert image["url"].startswith("http://test/sdxl/v1/images/files/")
    file = await below.get(image["url"])
    assert decoded(file.content).size == (64, 64)


@pytest.mark.parametrize(
    "public_url", ["https://me.example", "https://me.example/images", "https://me.example/images/"]
)
async def test_an_image_is_behind_the_public_address_and_its_path(
    pipeline: Pipeline, blobs: BlobStore, public_url: str
) -> None:
    """A proxy may serve the application at another path than Serve does."""
    app = build_app(pipeline, blobs, max_body_bytes=100_000, public_url=public_url)
    async with _client(app) as http:
        [image] = (await http.post("/v1/images/generations", json=_BODY)).json()["data"]
        assert image["url"].startswith(f"{public_url.rstrip('/')}/v1/images/files/")
        path = image["url"].removeprefix(public_url.rstrip("/"))
        assert (await http.get(path)).status_code == 200
