"""The line in the log, and the record for metrics, of every HTTP request."""

from __future__ import annotations

import asyncio
import logging

import httpx2
import pytest
from starlette.types import ASGIApp, Message

from atelier.api.app import build_app
from atelier.core.errors import GenerationFailed
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord
from atelier.stores.blobs import BlobStore
from tests.pictures import encoded, noise
from tests.stages import RecordingStages
from tests.unit.api.conftest import MAX_BODY_BYTES

_PATH = "/v1/images/generations"
_SECRET = "a secret prompt"
_QUICK = {"prompt": _SECRET, "size": "64x32", "num_inference_steps": 2, "n": 2}


@pytest.fixture
def records() -> list[RequestRecord]:
    """The records of all requests that have ended."""
    return []


@pytest.fixture
def observed(pipeline: Pipeline, blobs: BlobStore, records: list[RequestRecord]) -> ASGIApp:
    return build_app(pipeline, blobs, max_body_bytes=MAX_BODY_BYTES, observe=records.append)


def _client(app: ASGIApp) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


async def test_a_generation_has_one_line_with_what_was_made_and_how_long_it_took(
    http: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = await http.post(_PATH, json=_QUICK)
    [line] = [record for record in caplog.records if record.name.startswith("atelier")]
    assert line.levelname == "INFO"
    fields = vars(line)
    assert fields["request_id"] == answer.headers["x-request-id"]
    assert [fields[name] for name in ("endpoint", "status", "model", "size", "images", "steps")] == [
        f"POST {_PATH}",
        200,
        "small-sdxl",
        "64x32",
        2,
        2,
    ]
    assert "code" not in fields
    times = [fields[f"{stage}_s"] for stage in ("encode_texts", "queue", "denoise", "decode_latents")]
    assert all(seconds >= 0 for seconds in times)
    assert max(times) <= fields["total_s"]
    assert all(f"{name}={fields[name]}" in line.getMessage() for name in ("request_id", "endpoint", "total_s"))
    assert _SECRET not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "body", "endpoint", "status", "code"),
    [
        ("GET", "/v1/models", None, "GET /v1/models", 200, None),
        ("GET", "/v1/models/nope", None, "GET /v1/models/{model_id:model}", 404, "model_not_found"),
        ("GET", "/nowhere", None, "no such address", 404, None),
        ("POST", _PATH, {"prompt": "x", "n": 0}, f"POST {_PATH}", 400, "invalid_value"),
        ("POST", _PATH, {"prompt": "x" * MAX_BODY_BYTES}, "no such address", 413, None),
        ("POST", "/v1/images/upscale", {"image": "", "scale": 2}, "POST /v1/images/upscale", 400, "invalid_value"),
    ],
)
async def test_every_request_is_recorded_by_its_route(
    observed: ASGIApp,
    records: list[RequestRecord],
    method: str,
    path: str,
    body: object,
    endpoint: str,
    status: int,
    code: str | None,
) -> None:
    async with _client(observed) as client:
        await client.request(method, path, json=body)
    assert [(record.endpoint, record.status, record.code) for record in records] == [(endpoint, status, code)]


_PROBES = ("/health", "/ready", "/metrics", "/gpu/status", "/api/services/status", "/api/system/info")


async def test_probes_are_recorded_only_when_they_fail(
    observed: ASGIApp, records: list[RequestRecord], stages: RecordingStages
) -> None:
    async with _client(observed) as client:
        for path in _PROBES:
            assert (await client.get(path)).status_code == 200
        assert records == []
        stages.is_ready = False
        await client.get("/ready")
    assert [(record.endpoint, record.status) for record in records] == [("GET /ready", 503)]


async def test_an_unforeseen_error_is_recorded(
    observed: ASGIApp, records: list[RequestRecord], stages: RecordingStages
) -> None:
    stages.failures["denoise"] = RuntimeError("broken")
    async with _client(observed) as client:
        await client.post(_PATH, json=_QUICK)
    assert [(record.status, record.code) for record in records] == [(500, "internal_error")]


@pytest.mark.parametrize(
    ("error", "code"), [(GenerationFailed(), "generation_failed"), (RuntimeError("broken"), "internal_error")]
)
async def test_a_stream_that_fails_has_the_errors_code(
    observed: ASGIApp, records: list[RequestRecord], stages: RecordingStages, error: Exception, code: str
) -> None:
    stages.failures["denoise"] = error
    async with _client(observed) as client:
        await client.post(_PATH, json={**_QUICK, "stream": True})
    assert [(record.status, record.code) for record in records] == [(200, code)]


async def test_a_client_that_leaves_is_recorded(
    observed: ASGIApp, records: list[RequestRecord], stages: RecordingStages
) -> None:
    stages.may_denoise.clear()
    async with _client(observed) as client:
        request = asyncio.create_task(client.post(_PATH, json=_QUICK))
        await stages.denoising.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    assert [(record.endpoint, record.status, record.code) for record in records] == [
        (f"POST {_PATH}", 499, "client_left")
    ]


@pytest.mark.parametrize("operation", ["upscale", "annotate"])
async def test_other_operations_are_recorded_with_their_stage(
    observed: ASGIApp, records: list[RequestRecord], operation: str
) -> None:
    body = {"image": noise(32, 32), "scale": 2} if operation == "upscale" else {"image": "", "kind": "canny"}
    files = {"image": encoded(noise(32, 32))}
    form = {name: str(value) for name, value in body.items() if name != "image"}
    async with _client(observed) as client:
        answer = await client.post(f"/v1/images/{operation}", files=files, data=form)
    assert answer.status_code == 200
    [record] = records
    assert list(record.stage_s) == [operation]
    assert str(record.size) == {"upscale": "64x64", "annotate": "32x32"}[operation]


async def test_scopes_other_than_http_pass(observed: ASGIApp, records: list[RequestRecord]) -> None:
    sent: list[Message] = []
    messages: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await observed({"type": "lifespan", "state": {}}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert records == []
