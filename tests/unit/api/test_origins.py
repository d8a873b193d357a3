"""Requests of web pages: which origins may call the server, and the CORS headers that browsers check."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from atelier.api.app import build_app
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from tests.pictures import encoded, noise
from tests.stages import RecordingStages
from tests.unit.api.conftest import MAX_BODY_BYTES

_PATH = "/v1/images/generations"
_QUICK = {"prompt": "x", "size": "64x64", "num_inference_steps": 1, "seed": 1}
_ALLOWED = [
    "http://localhost:3000",
    "https://127.0.0.1",
    "http://[::1]:8080",
    "https://app.example",
    "https://me.example:8443",
]
_OTHERS = [
    "http://evil.example",
    "http://localhost.evil.example",
    "http://evil.example/http://localhost",
    "http://app.example",
    "https://me.example",
    "null",
]


@pytest.fixture
async def http(pipeline: Pipeline, blobs: BlobStore) -> AsyncIterator[httpx2.AsyncClient]:
    """A server behind a proxy, which a web application of another origin may call."""
    app = build_app(
        pipeline,
        blobs,
        max_body_bytes=MAX_BODY_BYTES,
        public_url="https://me.example:8443/images/",
        allowed_origins=["https://app.example"],
    )
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("origin", _ALLOWED)
async def test_pages_of_allowed_origins_may_call(http: httpx2.AsyncClient, origin: str) -> None:
    preflight = await http.options(
        _PATH,
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "content-type" in preflight.headers["access-control-allow-headers"]
    answer = await http.post(_PATH, json=_QUICK, headers={"origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", _OTHERS)
async def test_pages_of_other_origins_make_nothing_work(
    http: httpx2.AsyncClient, stages: RecordingStages, origin: str
) -> None:
    """Browsers send forms, and JSON as text/plain, to other origins without asking."""
    headers = {"origin": origin}
    answers = [
        await http.post(_PATH, json=_QUICK, headers=headers),
        await http.post("/v1/images/upscale", files={"image": ("x", encoded(noise(8, 8)))}, headers=headers),
        await http.options(_PATH, headers={**headers, "access-control-request-method": "POST"}),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert "access-control-allow-origin" not in answer.headers
    assert stages.calls == []


async def test_clients_that_are_no_browsers_send_no_origin(http: httpx2.AsyncClient) -> None:
    answer = await http.post(_PATH, json=_QUICK)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_urls_in_answers_begin_with_the_public_address(http: httpx2.AsyncClient) -> None:
    answer = await http.post(_PATH, json={**_QUICK, "response_format": "url"}, headers={"host": "evil.example"})
    url = answer.json()["data"][0]["url"]
    assert url.startswith("https://me.example:8443/images/v1/images/files/")
