from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from atelier.api.limits import BodyLimit
from atelier.core.errors import BodyTimeout, BodyTooLarge, QueueFull
from atelier.pipeline.pipeline import Pipeline
from tests.unit.api.conftest import MAX_BODY_BYTES

_PATH = "/v1/images/generations"
_JSON = {"content-type": "application/json"}


class _Reader:
    """An application that reads the whole body of a request."""

    def __init__(self) -> None:
        self.body = b""
        self.scopes: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, _: Send) -> None:
        self.scopes.append(scope["type"])
        while scope["type"] == "http":
            message = await receive()
            self.body += message["body"]
            if not message.get("more_body"):
                return


async def _send(chunks: list[bytes], *, declared: str | None, max_bytes: int = 10) -> tuple[_Reader, list[Message]]:
    reader, answers = _Reader(), list[Message]()
    messages = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        answers.append(message)

    headers = [] if declared is None else [(b"content-length", declared.encode())]
    await BodyLimit(reader, max_bytes=max_bytes)({"type": "http", "headers": headers}, receive, send)
    return reader, answers


@pytest.mark.parametrize("declared", ["10", None, "x", "-1"])
async def test_a_body_up_to_the_limit_is_read(declared: str | None) -> None:
    reader, answers = await _send([b"12345", b"67890"], declared=declared)
    assert (reader.body, answers) == (b"1234567890", [])


async def test_a_body_that_is_declared_too_large_is_not_read() -> None:
    reader, answers = await _send([b"12345678901"], declared="11")
    assert reader.scopes == []
    assert answers[0]["status"] == 413
    assert json.loads(answers[1]["body"])["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("declared", [None, "5"])
async def test_a_body_that_grows_too_large_is_rejected_while_it_arrives(declared: str | None) -> None:
    with pytest.raises(BodyTooLarge, match="larger than the 10 bytes"):
        await _send([b"12345", b"678901", b"never read"], declared=declared)


class _Held:
    """Requests of six bytes that are held until the test lets them end; eleven of them are too much for a limit of 8.

    Each sends its body in two parts, or announces it.
    """

    def __init__(self, *, is_announced: bool) -> None:
        self._limit = BodyLimit(self._work, max_bytes=8)
        self._headers = [(b"content-length", b"6")] if is_announced else []
        self._may_end = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self.statuses: list[int] = []

    async def _work(self, _: Scope, receive: Receive, __: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await self._may_end.wait()

    async def start(self) -> None:
        """Send one more request, and wait until it is held or refused."""
        parts = [(b"123", True), (b"456", False)]

        async def receive() -> Message:
            body, more_body = parts.pop(0)
            return {"type": "http.request", "body": body, "more_body": more_body}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])

        async def answer() -> None:
            try:
                await self._limit({"type": "http", "headers": self._headers}, receive, send)
            except QueueFull as error:
                self.statuses.append(error.status)

        self._running.add(asyncio.create_task(answer()))
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Let all requests end."""
        self._may_end.set()
        await asyncio.gather(*self._running)


@pytest.mark.parametrize("is_announced", [True, False])
async def test_bodies_are_bounded_together(is_announced: bool) -> None:
    held = _Held(is_announced=is_announced)
    for _ in range(10):
        await held.start()
    assert held.statuses == []
    await held.start()
    assert held.statuses == [429]
    await held.end()
    for _ in range(10):
        await held.start()
    assert held.statuses == [429]
    await held.end()


async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier.api.limits._TIMEOUT_S", 0.01)
    reader = _Reader()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError(message)

    with pytest.raises(BodyTimeout, match="did not arrive within"):
        await BodyLimit(reader, max_bytes=10)({"type": "http", "headers": []}, receive, send)


async def test_waiting_for_a_client_to_leave_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams listen for a disconnect after the body is complete."""
    monkeypatch.setattr("atelier.api.limits._TIMEOUT_S", 0.01)
    messages: list[Message] = [{"type": "http.request", "body": b"1"}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        await asyncio.sleep(0 if len(messages) == 2 else 0.05)
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    async def work(_: Scope, receive: Receive, __: Send) -> None:
        assert (await receive())["body"] == b"1"
        assert (await receive())["type"] == "http.disconnect"

    await BodyLimit(work, max_bytes=10)({"type": "http", "headers": []}, receive, send)
    assert messages == []


async def test_other_connections_are_passed_on() -> None:
    reader = _Reader()

    async def receive() -> Message:
        raise AssertionError("not called")

    async def send(message: Message) -> None:
        raise AssertionError(message)

    await BodyLimit(reader, max_bytes=0)({"type": "lifespan"}, receive, send)
    assert reader.scopes == ["lifespan"]


async def test_a_body_over_the_limit_is_answered_with_413_declared_or_not(http: httpx2.AsyncClient) -> None:
    large = json.dumps({"prompt": "x" * MAX_BODY_BYTES}).encode()

    async def in_chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000]

    for content in (large, in_chunks()):
        response = await http.post(_PATH, content=content, headers=_JSON)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_compressed_body_is_not_read(http: httpx2.AsyncClient) -> None:
    body = gzip.compress(json.dumps({"prompt": "x"}).encode())
    response = await http.post(_PATH, content=body, headers={**_JSON, "content-encoding": "gzip"})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (415, "unsupported_media_type")
    assert "gzip" in error["message"]


async def test_a_generation_that_would_wait_too_long_is_rejected_before_its_body_is_read(
    http: httpx2.AsyncClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full() -> None:
        raise QueueFull(retry_after_s=7)

    monkeypatch.setattr(pipeline, "arriving", is_full)
    for path in (_PATH, "/v1/images/edits", "/v1/images/variations"):
        response = await http.post(path, content=b"{", headers=_JSON)
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
