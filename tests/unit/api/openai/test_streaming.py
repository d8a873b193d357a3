"""`stream=true` from OpenAI's client and over bare HTTP: previews, progress, the end, and errors on the way."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from itertools import pairwise
from typing import Any, cast

import httpx2
import numpy as np
import openai
import pytest
from starlette.types import ASGIApp, Message

from atelier.core.errors import AtelierError, GenerationFailed, InvalidParameter
from atelier.local.stages import LocalStages
from tests.pictures import as_base64, decoded, encoded, noise, pixels_of
from tests.stages import RecordingStages

_PATH = "/v1/images/generations"
_REQUEST = {"prompt": "a large red circle, white background", "size": "64x32"}
_OURS = {"seed": 3, "num_inference_steps": 4}


async def _generate(client: openai.AsyncOpenAI, *, size: str = "64x32", **fields: Any) -> Any:
    return await cast(Any, client.images).generate(prompt="a large red circle, white background", size=size, **fields)


async def _events(http: httpx2.AsyncClient, **fields: object) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of a stream's events."""
    answer = await http.post(_PATH, json={**_REQUEST, **_OURS, "stream": True, **fields})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    assert all(name.startswith("event: ") and data.startswith("data: ") for name, data in blocks)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
async def test_a_stream_has_previews_and_ends_with_the_plain_answer(
    client: openai.AsyncOpenAI, partial_images: int
) -> None:
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
            "64x32",
            "medium",
            "opaque",
            "png",
        )
        assert decoded(event.b64_json).size == (64, 32)
    plain = await _generate(client, extra_body=_OURS)
    assert plain.data is not None
    assert plain.data[0].b64_json == completed.b64_json
    assert plain.usage is not None
    assert plain.usage.model_dump(exclude={"output_tokens_details"}) == completed.usage.model_dump()


@pytest.mark.zoo
@pytest.mark.parametrize("partial_images", [1, 2, 3])
async def test_previews_become_the_picture(zoo_client: openai.AsyncOpenAI, partial_images: int) -> None:
    ours = {"seed": 3, "num_inference_steps": 12}
    stream = await _generate(zoo_client, size="128x96", stream=True, partial_images=partial_images, extra_body=ours)
    *partial, completed = [event async for event in stream]
    final = pixels_of(completed.b64_json).astype(np.float64)
    errors = [np.abs(pixels_of(event.b64_json) - final).mean() for event in partial]
    assert errors == sorted(errors, reverse=True)
    assert all(error < 40 for error in errors)


async def test_every_image_of_several_has_its_own_events(client: openai.AsyncOpenAI) -> None:
    stream = await _generate(client, n=2, stream=True, partial_images=1, extra_body=_OURS)
    events = [event async for event in stream]
    kinds = [event.type.rpartition(".")[2] for event in events]
    assert kinds == ["partial_image", "partial_image", "completed", "completed"]
    plain = await _generate(client, n=2, extra_body=_OURS)
    assert sum(event.usage.total_tokens for event in events[2:]) == plain.usage.total_tokens
    assert [event.b64_json for event in events[2:]] == [image.b64_json for image in plain.data]
    assert [event.seed for event in events[2:]] == [3, 4]


@pytest.mark.parametrize(("path", "prefix"), [("edits", "image_edit"), ("variations", "image_variation")])
async def test_a_form_streams_under_its_own_name(http: httpx2.AsyncClient, path: str, prefix: str) -> None:
    form = {"prompt": "x", "stream": "true", "partial_images": "1", "num_inference_steps": "4"}
    files = {"image": ("upload", encoded(noise(64, 32)))}
    answer = await http.post(f"/v1/images/{path}", data=form, files=files)
    names = [line.removeprefix("event: ") for line in answer.text.split("\n") if line.startswith("event: ")]
    assert names == [f"{prefix}.partial_image", f"{prefix}.completed"]
    assert [json.loads(line[6:])["type"] for line in answer.text.split("\n") if line.startswith("data: ")] == names


async def test_the_last_event_has_every_field_of_an_answer(http: httpx2.AsyncClient) -> None:
    before = int(time.time())
    controls = [{"kind": "canny", "image": as_base64(noise(64, 32)), "annotate": True}]
    (name, first), (_, second) = await _events(http, n=2, controls=controls, quality="hd", output_format="webp")
    assert name == first.pop("type") == second.pop("type") == "image_generation.completed"
    [drawn] = first.pop("control_maps")
    assert drawn["kind"] == "canny"
    assert decoded(drawn["b64_json"]).size == (64, 32)
    for fields, seed in ((first, 3), (second, 4)):
        assert decoded(fields.pop("b64_json")).format == "WEBP"
        assert before <= fields.pop("created_at") <= time.time()
        assert fields["seed"] == fields.pop("parameters")["seed"] == seed
        assert len(fields.pop("exactness_key")) == 16
    described = {"size": "64x32", "quality": "high", "background": "opaque", "output_format": "webp", "cached": False}
    usage = first.pop("usage")
    assert usage.keys() == {"input_tokens", "input_tokens_details", "output_tokens", "total_tokens"}
    assert (usage["input_tokens_details"]["image_tokens"], usage["output_tokens"]) == (32, 32)
    assert second.pop("usage")["total_tokens"] == 32
    assert (first, second) == ({**described, "seed": 3}, {**described, "seed": 4})


async def test_progress_is_reported_to_clients_that_ask(http: httpx2.AsyncClient) -> None:
    *progress, _ = await _events(http, progress=True)
    assert [name for name, _ in progress] == ["image_generation.progress"] * 4
    reported = [fields for _, fields in progress]
    assert [(one["step"], one["total"]) for one in reported] == [(step, 4) for step in range(1, 5)]
    assert reported[-1]["eta_s"] == 0
    assert all(before["elapsed_s"] <= after["elapsed_s"] for before, after in pairwise(reported))
    assert reported[0].keys() == {"type", "step", "total", "elapsed_s", "eta_s"}


async def test_progress_counts_through_a_second_pass(http: httpx2.AsyncClient) -> None:
    hires = {"scale": 1.5, "strength": 0.5, "steps": 8}
    events = await _events(http, n=2, progress=True, hires=hires)
    steps = [(fields["step"], fields["total"]) for name, fields in events if name.endswith("progress")]
    assert steps == [(step, 8) for step in range(1, 9)]


class _Connection:
    """An ASGI connection to the application that records every message at the moment it is sent."""

    def __init__(self, **fields: object) -> None:
        body = json.dumps({**_REQUEST, "stream": True, **fields}).encode()
        self._request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self.sent: list[Message] = []
        #: Events by text; each is set when a message that contains its text is sent.
        self.seen: dict[bytes, asyncio.Event] = {}
        self.leaves = asyncio.Event()
        #: Whether the client leaves while the first message is being sent, so that sending never completes.
        self.hangs = False

    def saw(self, text: bytes) -> asyncio.Event:
        return self.seen.setdefault(text, asyncio.Event())

    async def _receive(self) -> Message:
        if self._request:
            return self._request.pop()
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        for text, is_seen in self.seen.items():
            if text in message.get("body", b""):
                is_seen.set()
        if self.hangs:
            self.leaves.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    async def run(self, app: ASGIApp) -> None:
        headers = [(b"content-type", b"application/json"), (b"host", b"test")]
        scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}
        scope |= {"http_version": "1.1", "method": "POST", "scheme": "http", "path": _PATH, "query_string": b""}
        scope |= {"headers": headers, "server": ("test", 80), "client": ("x", 1), "root_path": "", "state": {}}
        await asyncio.wait_for(app(scope, self._receive, self._send), timeout=20)


async def _until_idle(stages: LocalStages) -> None:
    async with asyncio.timeout(20):
        while stages.engine.status().num_running:  # noqa: ASYNC110 the engine has no event for it
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("is_begun", [True, False], ids=["after a step", "before the first line"])
async def test_a_client_who_leaves_a_stream_stops_the_work_without_an_error(
    app: ASGIApp,
    stages: RecordingStages,
    small_stages: LocalStages,
    caplog: pytest.LogCaptureFixture,
    is_begun: bool,
) -> None:
    connection = _Connection(num_inference_steps=150, progress=True)
    connection.hangs = not is_begun
    running = asyncio.create_task(connection.run(app))
    if is_begun:
        await asyncio.wait_for(connection.saw(b"progress").wait(), 20)
        connection.leaves.set()
    await running
    assert stages.ended.is_set() == is_begun
    assert "decode_latents" not in stages.names
    await _until_idle(small_stages)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_cancelling_the_reader_of_a_stream_stops_the_work(
    client: openai.AsyncOpenAI, stages: RecordingStages, small_stages: LocalStages
) -> None:
    """This client's transport returns a stream only as a whole, so the task that reads is cancelled instead."""
    stages.may_denoise.clear()
    body = {"num_inference_steps": 150, "progress": True}
    reading = asyncio.create_task(_generate(client, stream=True, extra_body=body))
    await asyncio.wait_for(stages.denoising.wait(), 20)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await asyncio.wait_for(stages.ended.wait(), 20)
    await _until_idle(small_stages)
    assert "decode_latents" not in stages.names


async def test_a_comment_keeps_a_silent_stream_open(
    app: ASGIApp, stages: RecordingStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atelier.api.openai.streaming._KEEP_ALIVE_S", 0.001)
    stages.may_denoise.clear()
    connection = _Connection(**_OURS)
    running = asyncio.create_task(connection.run(app))
    await asyncio.wait_for(connection.saw(b": keep-alive\n\n").wait(), 20)
    stages.may_denoise.set()
    await running
    assert b"image_generation.completed" in connection.sent[-2]["body"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"partial_images": 2}, "partial_images"),
        ({"progress": True}, "progress"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"stream": True, "size": "1x1"}, "size"),
        ({"stream": True, "init_image": "AAAA"}, "init_image"),
    ],
)
async def test_a_stream_that_cannot_begin_is_a_plain_400(
    http: httpx2.AsyncClient, fields: dict[str, object], param: str
) -> None:
    answer = await http.post("/v1/images/generations", json={"prompt": "x", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_an_error_in_mid_stream_is_the_clients_own(client: openai.AsyncOpenAI, stages: RecordingStages) -> None:
    stages.failures["decode_latents"] = GenerationFailed("no luck")
    stream = await _generate(client, stream=True, partial_images=3, extra_body={**_OURS, "progress": True})
    with pytest.raises(openai.APIError, match="no luck"):
        async for _ in stream:
            pass


async def test_a_deadline_ends_a_stream(client: openai.AsyncOpenAI, stages: RecordingStages) -> None:
    stages.may_denoise.clear()
    stream = await _generate(client, stream=True, extra_body={**_OURS, "deadline_s": 0.3})
    with pytest.raises(openai.APIError, match="deadline_s"):
        async for _ in stream:
            pass


@pytest.mark.parametrize(
    ("error", "expected", "num_logged"),
    [
        (InvalidParameter("no", param="prompt"), ("invalid_request_error", "prompt", "invalid_value", "no"), 0),
        (GenerationFailed("no"), ("server_error", None, "generation_failed", "no"), 1),
        (
            RuntimeError("secret"),
            ("server_error", None, "internal_error", "Something went wrong inside the server."),
            1,
        ),
    ],
)
async def test_an_error_is_the_last_event_and_the_servers_own_is_logged(
    http: httpx2.AsyncClient,
    stages: RecordingStages,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    expected: tuple[str | None, ...],
    num_logged: int,
) -> None:
    stages.failures["decode_latents"] = error
    *_, (name, fields) = await _events(http)
    assert name == "error"
    type_, param, code, message = expected
    assert fields == {"error": {"message": message, "type": type_, "param": param, "code": code}}
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == num_logged
    assert isinstance(error, AtelierError) or "secret" in caplog.text
