from __future__ import annotations

import re

import httpx2
from starlette.types import Message, Receive, Scope, Send

from atelier.api.request_id import RequestIds, new_request_id, request_id_of
from tests.stages import RecordingStages

_PATH = "/v1/images/generations"
_QUICK = {"prompt": "x", "num_inference_steps": 1}


_JSON = {"content-type": "application/json"}


def test_ids_are_random_and_long() -> None:
    ids = {new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids)


async def test_every_answer_has_an_id_of_its_own(http: httpx2.AsyncClient) -> None:
    answers = [await http.get(path) for path in ("/health", "/health", "/nowhere")]
    answers.append(await http.post(_PATH, content=b"{", headers=_JSON))
    answers.append(await http.post(_PATH, content=b"x" * 200_000, headers=_JSON))
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(one.startswith("req_") for one in ids)


async def test_the_engine_knows_a_request_by_the_id_of_its_answer(
    http: httpx2.AsyncClient, stages: RecordingStages
) -> None:
    for fields in ({}, {"stream": True}, {"seed": 3}):
        answer = await http.post(_PATH, json={**_QUICK, **fields})
        assert stages.requests[-1].request_id == answer.headers["x-request-id"]


async def test_the_id_is_part_of_the_scope_and_other_headers_stay() -> None:
    seen: list[str] = []
    sent: list[Message] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(request_id_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-mine", b"1")]})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        raise AssertionError("not called")

    async def send(message: Message) -> None:
        sent.append(message)

    await RequestIds(app)({"type": "http"}, receive, send)
    assert sent[0]["headers"] == [(b"x-mine", b"1"), (b"x-request-id", seen[0].encode())]
    assert sent[1] == {"type": "http.response.body", "body": b""}


async def test_other_connections_have_no_id() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        scopes.append(scope)

    await RequestIds(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert scopes == [{"type": "lifespan"}]
