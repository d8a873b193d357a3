from __future__ import annotations

import json
import logging

import httpx2
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message

from atelier.api.error_handlers import install_error_handlers
from atelier.api.errors import error_response
from atelier.core.errors import (
    AtelierError,
    DeadlineExceeded,
    GenerationFailed,
    InvalidParameter,
    NotSupported,
    QueueFull,
    ReplicaLost,
)
from tests.stages import RecordingStages

_PATH = "/v1/images/generations"
_QUICK = {"prompt": "x", "num_inference_steps": 1}


@pytest.mark.parametrize("error", [QueueFull(), ReplicaLost()])
def test_clients_may_retry_what_may_succeed_later(error: AtelierError) -> None:
    assert "x-should-retry" not in error_response(error).headers


@pytest.mark.parametrize("error", [InvalidParameter("n: no", param="n"), DeadlineExceeded()])
def test_clients_are_told_not_to_retry_what_fails_again(error: AtelierError) -> None:
    assert error_response(error).headers["x-should-retry"] == "false"


def test_errors_that_pass_say_when_to_come_back() -> None:
    response = error_response(QueueFull())
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    response = error_response(ReplicaLost())
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "retry-after" not in error_response(GenerationFailed()).headers


def test_the_body_is_openais() -> None:
    body = json.loads(bytes(error_response(InvalidParameter("n: no", param="n")).body))
    assert body == {
        "error": {"message": "n: no", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    }


@pytest.mark.parametrize(
    ("error", "status", "type_", "code", "num_logged"),
    [
        (InvalidParameter("n: no", param="n"), 400, "invalid_request_error", "invalid_value", 0),
        (QueueFull(), 429, "rate_limit_error", "queue_full", 0),
        (GenerationFailed("broken"), 500, "server_error", "generation_failed", 1),
        (NotSupported("not yet"), 501, "not_supported_error", "not_supported", 0),
        (ReplicaLost(), 503, "server_error", "replica_lost", 1),
    ],
)
async def test_errors_of_the_stages_are_answered_and_the_servers_own_are_logged(
    http: httpx2.AsyncClient,
    stages: RecordingStages,
    caplog: pytest.LogCaptureFixture,
    error: AtelierError,
    status: int,
    type_: str,
    code: str,
    num_logged: int,
) -> None:
    stages.failures["denoise"] = error
    answer = await http.post(_PATH, json=_QUICK)
    assert answer.status_code == status
    assert answer.json()["error"] == {"message": str(error), "type": type_, "param": error.param, "code": code}
    assert answer.headers["x-request-id"].startswith("req_")
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged == [f"{answer.headers['x-request-id']}: POST {_PATH}: {error}"] * num_logged


async def test_an_unforeseen_error_is_logged_and_not_shown(
    http: httpx2.AsyncClient, stages: RecordingStages, caplog: pytest.LogCaptureFixture
) -> None:
    stages.failures["denoise"] = RuntimeError("secret")
    answer = await http.post(_PATH, json=_QUICK)
    assert (answer.status_code, answer.json()["error"]) == (
        500,
        {
            "message": "Something went wrong inside the server.",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        },
    )
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-should-retry"] == "false"
    [record] = [record for record in caplog.records if record.name == "atelier.api.error_handlers"]
    assert record.getMessage() == f"{answer.headers['x-request-id']}: POST {_PATH} failed"
    assert "secret" in caplog.text


async def test_other_errors_of_the_framework_are_invalid_requests() -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "I am a teapot")

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/teapot")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert answer.json()["error"]["message"] == "I am a teapot"


async def test_an_unknown_address_is_404_in_openais_shape(http: httpx2.AsyncClient) -> None:
    response = await http.get("/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert response.json()["error"]["message"] == "There is nothing at /v1/nothing. See /docs."


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/images/generations", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/health", "GET"),
        ("POST", "/v1/models/tiny-sdxl", "DELETE, GET"),
    ],
)
async def test_a_wrong_method_is_answered_with_the_right_ones(
    http: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await http.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert allowed in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x"])
async def test_an_aborted_upload_is_no_error_of_the_server(
    app: ASGIApp, caplog: pytest.LogCaptureFixture, content_type: str
) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"--x\r\n", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_: Message) -> None:
        pass

    path = _PATH if content_type == "application/json" else "/v1/images/edits"
    headers = [(b"content-type", content_type.encode())]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    with caplog.at_level(logging.INFO):
        await app(scope, receive, send)
    assert not messages
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("INFO", None)]
    assert f"endpoint=POST {path} status=400 code=client_left" in caplog.text
