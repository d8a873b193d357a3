"""`stream=true` as OpenAI's client and curl see it: previews, progress, the end, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from itertools import pairwise
from typing import Any, cast

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image
from starlette.types import ASGIApp, Message

from atelier.local import LocalStages

_REQUEST = {"prompt": "a large red circle, white background", "size": "128x96"}
_OURS = {"seed": 3, "num_inference_steps": 12}


@pytest.fixture
def client(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)


async def _generate(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await cast(Any, client.images).generate(
        prompt="a large red circle, white background", size="128x96", **fields
    )


def _pixels(b64_json: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64_json))), dtype=np.float64)


@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
async def test_previews_become_the_picture(client: openai.AsyncOpenAI, partial_images: int) -> None:
    events = [
        event
        async for event in await _generate(
            client, stream=True, partial_images=partial_images, extra_body=_OURS, user="someone"
        )
    ]
    *partial, completed = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * partial_images
    assert [event.partial_image_index for event in partial] == list(range(partial_images))
    assert completed.type == "image_generation.completed"
    assert completed.safety_identifier == "someone"
    for event in events:
        assert (event.size, event.quality, event.background, event.output_format) == (
            "128x96",
            "medium",
            "opaque",
            "png",
        )
    final = _pixels(completed.b64_json)
    errors = [np.abs(_pixels(event.b64_json) - final).mean() for event in partial]
    assert errors == sorted(errors, reverse=True)
    assert all(error < 60 for error in errors)
    plain = await _generate(client, extra_body=_OURS)
    assert plain.data is not None
    assert plain.data[0].b64_json == completed.b64_json
    assert plain.usage is not None
    assert plain.usage.model_dump(exclude={"output_tokens_details"}) == completed.usage.model_dump()


async def test_every_picture_of_several_has_its_own_events(client: openai.AsyncOpenAI) -> None:
    stream = await _generate(client, n=2, stream=True, partial_images=1, extra_body=_OURS)
    events = [event async for event in stream]
    kinds = [event.type.rpartition(".")[2] for event in events]
    assert kinds == ["partial_image", "partial_image", "completed", "completed"]
    plain = await _generate(client, n=2, extra_body=_OURS)
    assert sum(event.usage.total_tokens for event in events[2:]) == plain.usage.total_tokens


async def test_an_edit_streams_under_its_own_name(client: openai.AsyncOpenAI) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "yellow").save(file, "PNG")
    stream = await client.images.edit(
        image=file.getvalue(), prompt="a red circle", stream=True, partial_images=1, extra_body=_OURS
    )
    assert [event.type async for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


async def test_progress_is_told_to_who_asks(http: httpx2.AsyncClient) -> None:
    body = {**_REQUEST, **_OURS, "stream": True, "progress": True}
    answer = await http.post("/v1/images/generations", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in answer.text.strip().split("\n\n")]
    assert [event["event"] for event in events[:-1]] == ["image_generation.progress"] * 12
    told = [json.loads(event["data"]) for event in events[:-1]]
    assert [(one["step"], one["total"]) for one in told] == [(step, 12) for step in range(1, 13)]
    assert told[-1]["eta_s"] == 0
    assert all(before["elapsed_s"] <= after["elapsed_s"] for before, after in pairwise(told))


async def test_progress_counts_through_a_second_pass(http: httpx2.AsyncClient) -> None:
    hires = {"scale": 1.5, "strength": 0.5, "steps": 8}
    body = {**_REQUEST, **_OURS, "size": "64x64", "n": 2, "stream": True, "progress": True, "hires": hires}
    answer = await http.post("/v1/images/generations", json=body)
    told = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]
    steps = [(one["step"], one["total"]) for one in told if one["type"].endswith("progress")]
    assert steps == [(step, 16) for step in range(1, 17)]


@pytest.mark.parametrize("leaves", ["while it is told", "before the first line"])
async def test_who_leaves_stops_the_work_and_no_error_is_logged(
    app: ASGIApp, local_stages: LocalStages, caplog: pytest.LogCaptureFixture, leaves: str
) -> None:
    """As a server leaves, which cancels again and again; the transport of the other tests reads streams whole."""
    body = json.dumps({**_REQUEST, "size": "160x160", "num_inference_steps": 150, "stream": True, "progress": True})
    received = iter([{"type": "http.request", "body": body.encode(), "more_body": False}])
    before = local_stages.engine.status().num_steps
    is_begun = asyncio.Event()

    async def receive() -> Message:
        for message in received:
            return message
        await is_begun.wait()
        # In the middle of a step, which is waited for.
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if leaves == "before the first line" and message["type"] == "http.response.start":
            is_begun.set()
            await asyncio.Event().wait()
        if message.get("body", b"").count(b"progress"):
            is_begun.set()
        await asyncio.sleep(0)

    headers = [(b"content-type", b"application/json"), (b"host", b"test")]
    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
    scope |= {"method": "POST", "scheme": "http", "path": "/v1/images/generations", "query_string": b""}
    scope |= {"headers": headers, "server": ("test", 80), "client": ("x", 1), "root_path": "", "state": {}}
    await asyncio.wait_for(app(scope, receive, send), timeout=20)
    while local_stages.engine.status().num_running:  # noqa: ASYNC110 the engine tells nobody
        await asyncio.sleep(0.01)
    assert 0 <= local_stages.engine.status().num_steps - before < 60
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"partial_images": 2}, "partial_images"),
        ({"progress": True}, "progress"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"stream": True, "size": "1x1"}, "size"),
    ],
)
async def test_a_stream_that_cannot_begin_is_a_plain_400(
    http: httpx2.AsyncClient, fields: dict[str, object], param: str
) -> None:
    answer = await http.post("/v1/images/generations", json={"prompt": "x", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_an_error_in_mid_stream_is_the_clients_own(client: openai.AsyncOpenAI) -> None:
    stream = await _generate(
        client,
        stream=True,
        partial_images=3,
        extra_body={"num_inference_steps": 150, "deadline_s": 0.5, "progress": True},
    )
    with pytest.raises(openai.APIError, match="deadline_s"):
        async for _ in stream:
            pass


async def test_leaving_a_stream_stops_the_work(client: openai.AsyncOpenAI, local_stages: LocalStages) -> None:
    """The transport of this test reads streams whole, so the reader is cancelled instead."""
    before = local_stages.engine.status().num_steps
    body = {"num_inference_steps": 150, "progress": True}
    reading = asyncio.create_task(_generate(client, stream=True, extra_body=body))
    while local_stages.engine.status().num_steps < before + 5:  # noqa: ASYNC110 the engine tells nobody
        await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    left = local_stages.engine.status().num_steps
    await asyncio.sleep(0.3)
    assert local_stages.engine.status().num_steps <= left + 2
    assert local_stages.engine.status().num_running == 0
