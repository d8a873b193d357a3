from __future__ import annotations

import asyncio
import re

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from atelier.api.app import build_app
from atelier.api.request_id import RequestIds, new_request_id, request_id_of
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
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
        assert stages.requests[-1].request_id.startswith(f"{answer.headers['x-request-id']}.")


@pytest.mark.parametrize(
    "given", ["abc", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "Root=1-5759e988:x/y+z@w_v", "x" * 128]
)
async def test_a_plain_id_of_the_client_is_the_requests(
    http: httpx2.AsyncClient, stages: RecordingStages, given: str
) -> None:
    answer = await http.post(_PATH, json=_QUICK, headers={"x-request-id": given})
    assert answer.headers.get_list("x-request-id") == [given]
    assert stages.requests[-1].request_id.startswith(f"{given}.")


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "<script>", "a\tb", "é", "a;b", "a,b", "a\x7fb"])
async def test_another_id_is_refused_and_not_repeated(
    http: httpx2.AsyncClient, stages: RecordingStages, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    answer = await http.post(_PATH, json=_QUICK, headers={b"x-request-id": given.encode()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-id")
    [returned] = answer.headers.get_list("x-request-id")
    assert returned.startswith("req_")
    assert not given or given not in caplog.text
    assert stages.calls == []


async def test_requests_of_one_id_do_not_disturb_each_other(
    http: httpx2.AsyncClient, stages: RecordingStages
) -> None:
    headers = {"x-request-id": "the-same"}
    bodies = [{**_QUICK, "seed": seed} for seed in range(4)]
    answers = await asyncio.gather(*(http.post(_PATH, json=body, headers=headers) for body in bodies))
    assert [answer.json()["data"][0]["seed"] for answer in answers] == [0, 1, 2, 3]
    assert len({request.request_id for request in stages.requests}) == 4


async def test_behind_serves_proxy_the_header_is_left_to_the_proxy(pipeline: Pipeline, blobs: BlobStore) -> None:
    app = build_app(pipeline, blobs, max_body_bytes=1000, returns_request_id=False)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        assert "x-request-id" not in (await client.get("/health")).headers


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

    await RequestIds(app)({"type": "http", "headers": []}, receive, send)
    assert sent[0]["headers"] == [(b"x-mine", b"1"), (b"x-request-id", seen[0].encode())]
    assert sent[1] == {"type": "http.response.body", "body": b""}


async def test_other_connections_have_no_id() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        scopes.append(scope)

    await RequestIds(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert scopes == [{"type": "lifespan"}]
