"""Answers of Serve's proxy when a Router is lost, and in place of its plain text."""

from __future__ import annotations

import json

import httpx2
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.proxy import middleware


async def _answer_of(app: ASGIApp, path: str = "/") -> httpx2.Response:
    [ours] = middleware()
    transport = httpx2.ASGITransport(ours.cls(app, *ours.args, **ours.kwargs))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


async def _nothing(_: Scope, __: Receive, ___: Send) -> None:
    """What Serve's proxy sends when the replica that worked on the request has died."""


def _events(*, is_cut: bool) -> ASGIApp:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"event: step\ndata: {}\n\n", "more_body": True})
        if not is_cut:
            await send({"type": "http.response.body", "body": b""})

    return app


async def test_a_request_without_an_answer_can_be_sent_again() -> None:
    answer = await _answer_of(_nothing)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replica_lost")
    assert int(answer.headers["retry-after"]) > 0
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize(
    ("plain", "status", "code", "headers"),
    [
        (PlainTextResponse("timed out", 408), 504, "deadline_exceeded", {"x-should-retry": "false"}),
        (PlainTextResponse("full", 429, {"retry-after": "7"}), 429, "queue_full", {"retry-after": "7"}),
        (PlainTextResponse("full", 429), 429, "queue_full", {"retry-after": "1"}),
        (PlainTextResponse("unavailable", 503), 503, "replica_lost", {"retry-after": "5"}),
    ],
)
async def test_plain_text_of_the_proxy_becomes_an_error_of_ours(
    plain: Response, status: int, code: str, headers: dict[str, str]
) -> None:
    answer = await _answer_of(plain)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.items() >= headers.items()


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("atelier_requests_total 1"),
        PlainTextResponse("not found", 404),
        JSONResponse({"status": "not ready"}, 503),
        JSONResponse({"error": {"code": "queue_full"}}, 429),
    ],
)
async def test_other_answers_pass_as_they_are(response: Response) -> None:
    answer = await _answer_of(response)
    assert (answer.status_code, answer.content) == (response.status_code, response.body)


async def test_a_stream_that_is_cut_off_ends_with_an_error_event() -> None:
    first, last = (await _answer_of(_events(is_cut=True))).text.strip().split("\n\n")
    assert first == "event: step\ndata: {}"
    name, data = last.split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert (await _answer_of(_events(is_cut=False))).text == "event: step\ndata: {}\n\n"


async def test_websockets_pass() -> None:
    seen = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        return {"type": "websocket.disconnect"}

    async def send(_: Message) -> None:
        pass

    [ours] = middleware()
    await ours.cls(app, *ours.args, **ours.kwargs)({"type": "websocket"}, receive, send)
    assert seen == ["websocket"]


async def test_serves_own_addresses_pass() -> None:
    answer = await _answer_of(PlainTextResponse("This node is being drained.", 503), path="/-/healthz")
    assert (answer.status_code, answer.text) == (503, "This node is being drained.")
