"""POST /v1/images/generations from a plain HTTP client."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any
from zipfile import ZipFile

import httpx2
import pytest

from atelier.api.app import build_app
from atelier.core.params import ResponseFormat
from atelier.pipeline.coalesce import Coalescer
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from tests.pictures import as_base64, decoded, encoded, noise
from tests.stages import RecordingStages

_PATH = "/v1/images/generations"
_QUICK = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2, "seed": 7}


async def test_images_are_base64_with_their_seeds(http: httpx2.AsyncClient) -> None:
    response = await http.post(_PATH, json={**_QUICK, "n": 2, "size": "96x64"})
    answer = response.json()
    assert response.status_code == 200
    assert [image["seed"] for image in answer["data"]] == [7, 8]
    assert (answer["output_format"], answer["size"]) == ("png", "96x64")
    for image in answer["data"]:
        picture = decoded(image["b64_json"])
        assert (picture.format, picture.size, picture.mode) == ("PNG", (96, 64), "RGB")
        assert "url" not in image


async def test_parameters_make_the_same_image_again(http: httpx2.AsyncClient) -> None:
    second = (await http.post(_PATH, json={**_QUICK, "n": 2, "negative_prompt": "blue"})).json()["data"][1]
    again = (await http.post(_PATH, json=second["parameters"])).json()["data"][0]
    ours, theirs = (decoded(image["b64_json"]).tobytes() for image in (second, again))
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1


@pytest.mark.parametrize(("output_format", "pillow_format"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
async def test_an_image_behind_a_url_can_be_fetched(
    http: httpx2.AsyncClient, output_format: str, pillow_format: str
) -> None:
    body = {**_QUICK, "response_format": "url", "output_format": output_format}
    [image] = (await http.post(_PATH, json=body)).json()["data"]
    file = await http.get(image["url"])
    assert file.headers["content-type"] == f"image/{output_format}"
    assert decoded(file.content).format == pillow_format


async def _images(http: httpx2.AsyncClient, **fields: object) -> list[dict[str, object]]:
    answer = (await http.post(_PATH, json={**_QUICK, **fields})).json()
    assert {image["parameters"]["model"] for image in answer["data"]} == {"small-sdxl"}
    images: list[dict[str, object]] = answer["data"]
    return images


@pytest.mark.parametrize(
    ("model", "default"),
    [("dall-e-2", "url"), ("dall-e-3", "url"), ("gpt-image-1", "b64_json"), ("small-sdxl", "b64_json")],
)
async def test_openais_models_are_aliases_with_openais_default(
    http: httpx2.AsyncClient, model: str, default: str
) -> None:
    """Clients such as LangChain always send these names, and read `url` from the answers of DALL·E."""
    [image] = await _images(http, model=model)
    assert image.keys() & {"url", "b64_json"} == {default}
    for response_format in ("url", "b64_json"):
        [image] = await _images(http, model=model, response_format=response_format)
        assert image.keys() & {"url", "b64_json"} == {response_format}


@pytest.mark.parametrize(("default", "returned"), [("url", "url"), ("b64_json", "b64_json"), (None, "url")])
async def test_the_server_has_a_default_for_clients_that_name_no_response_format(
    pipeline: Pipeline, blobs: BlobStore, default: ResponseFormat | None, returned: str
) -> None:
    app = build_app(pipeline, blobs, max_body_bytes=100_000, default_response_format=default)
    image = {"image": ("upload", encoded(noise(32, 32)))}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http:
        body: dict[str, Any] = {**_QUICK, "model": "dall-e-3"}
        answers = [
            await http.post(_PATH, json=body),
            *[await http.post(f"/v1/images/{path}", data=body, files=image) for path in ("edits", "variations")],
        ]
        streamed = await http.post(_PATH, json={**body, "stream": True})
    for answer in answers:
        [one] = answer.json()["data"]
        assert one.keys() & {"url", "b64_json"} == {returned}
    assert '"b64_json"' in streamed.text


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_an_image_can_be_the_answer_itself(http: httpx2.AsyncClient, output_format: str) -> None:
    body = {**_QUICK, "output_format": output_format}
    answer = await http.post(_PATH, json={**body, "response_format": "file"})
    assert answer.headers["content-type"] == f"image/{output_format}"
    assert answer.headers["content-disposition"] == f'inline; filename="small-sdxl-7.{output_format}"'
    [image] = (await http.post(_PATH, json=body)).json()["data"]
    assert answer.content == base64.b64decode(image["b64_json"])


async def test_several_images_are_one_zip(http: httpx2.AsyncClient) -> None:
    body = {**_QUICK, "n": 3}
    answer = await http.post(_PATH, json={**body, "response_format": "file"})
    assert answer.headers["content-type"] == "application/zip"
    images = (await http.post(_PATH, json=body)).json()["data"]
    with ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == [f"small-sdxl-{seed}.png" for seed in (7, 8, 9)]
        assert [archive.read(name) for name in archive.namelist()] == [
            base64.b64decode(image["b64_json"]) for image in images
        ]


async def test_a_stream_of_an_alias_carries_base64(http: httpx2.AsyncClient) -> None:
    answer = await http.post(_PATH, json={**_QUICK, "model": "dall-e-3", "stream": True})
    assert '"b64_json": "' in answer.text


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b"{", 400, None, "invalid_body"),
        (b"", 400, None, "invalid_body"),
        (b"[1]", 400, None, "invalid_body"),
        (b'"\xff"', 400, None, "invalid_body"),
        (b"[" * 10_000, 400, None, "invalid_body"),
        (b'{"prompt": NaN}', 400, "prompt", "invalid_value"),
        (b'{"prompt": "x", "guidance_scale": NaN}', 400, "guidance_scale", "invalid_value"),
        (b'{"prompt": "x", "guidance_scale": 1e999}', 400, "guidance_scale", "invalid_value"),
        (b'{"prompt": "x", "seed": -Infinity}', 400, "seed", "invalid_value"),
        (b'{"prompt": "\\ud800"}', 400, "prompt", "invalid_value"),
        (b'{"prompt": ""}', 400, "prompt", "invalid_value"),
        (b'{"prompt": "x", "n": 11}', 400, "n", "invalid_value"),
        (b'{"prompt": "x", "n": "1"}', 400, "n", "invalid_value"),
        (b'{"prompt": "x", "size": "100x100"}', 400, "size", "invalid_value"),
        (b'{"prompt": "x", "size": "1024x1024"}', 400, "size", "invalid_value"),
        (b'{"prompt": "x", "response_format": "png"}', 400, "response_format", "invalid_value"),
        (b'{"prompt": "x", "widht": 64}', 400, "widht", "unknown_parameter"),
        (b'{"prompt": "x", "model": "dall-e-9"}', 404, "model", "model_not_found"),
        (b'{"prompt": "x", "size": "256x256", "n": 10}', 400, None, "too_much_work"),
        (b'{"prompt": "x", "clip_skip": 2}', 501, "clip_skip", "not_supported"),
        (b'{"prompt": "x", "sampler": "euler_a", "schedule": "karras"}', 400, "schedule", "invalid_value"),
    ],
)
async def test_bad_requests_are_refused_before_any_model_runs(
    http: httpx2.AsyncClient, stages: RecordingStages, body: bytes, status: int, param: str | None, code: str
) -> None:
    response = await http.post(_PATH, content=body, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["message"]
    assert response.headers["x-should-retry"] == "false"
    assert stages.calls == []


async def test_a_prompt_longer_than_the_encoders_read_is_refused(http: httpx2.AsyncClient) -> None:
    response = await http.post(_PATH, json={"prompt": "circle " * 700})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "prompt")
    assert "700 tokens" in error["message"]


async def test_a_deadline_ends_the_work(http: httpx2.AsyncClient, stages: RecordingStages) -> None:
    stages.may_denoise.clear()
    response = await http.post(_PATH, json={**_QUICK, "deadline_s": 0.3})
    assert (response.status_code, response.json()["error"]["param"]) == (504, "deadline_s")
    assert stages.ended.is_set() == stages.denoising.is_set()
    assert "decode_latents" not in stages.names


async def test_an_answer_describes_its_images(http: httpx2.AsyncClient) -> None:
    before = int(time.time())
    answer = (await http.post(_PATH, json={**_QUICK, "n": 2, "user": "me", "output_format": "webp"})).json()
    assert before <= answer.pop("created") <= time.time()
    assert len(answer.pop("exactness_key")) == 16
    data = answer.pop("data")
    usage = answer.pop("usage")
    assert usage["output_tokens_details"] == {"image_tokens": 2 * 64, "text_tokens": 0}
    assert answer == {
        "background": "opaque",
        "quality": "medium",
        "safety_identifier": "me",
        "output_format": "webp",
        "size": "64x64",
        "cached": False,
    }
    for image, seed in zip(data, (7, 8), strict=True):
        assert image.keys() == {"b64_json", "seed", "parameters"}
        assert image["seed"] == image["parameters"]["seed"] == seed


async def test_an_image_behind_a_url_is_not_in_the_answer(http: httpx2.AsyncClient) -> None:
    answer = (await http.post(_PATH, json={**_QUICK, "n": 2, "response_format": "url"})).json()
    first, second = answer["data"]
    assert first.keys() == {"url", "seed", "parameters"}
    assert first["url"].startswith("http://test/v1/images/files/")
    assert first["url"].endswith(".png")
    assert first["url"] != second["url"]


async def test_drawn_maps_are_part_of_the_answer(http: httpx2.AsyncClient) -> None:
    image = as_base64(noise(64, 64))
    controls = [
        {"kind": "depth", "image": image},
        {"kind": "canny", "image": image, "annotate": True},
    ]
    answer = (await http.post(_PATH, json={**_QUICK, "controls": controls})).json()
    [drawn] = answer["control_maps"]
    assert drawn["kind"] == "canny"
    assert decoded(drawn["b64_json"]).size == (64, 64)
    assert "control_maps" not in (await http.post(_PATH, json=_QUICK)).json()


async def test_equal_seeded_requests_in_flight_are_made_once(
    http: httpx2.AsyncClient, stages: RecordingStages
) -> None:
    bodies = [{**_QUICK, "seed": 5, "user": str(index)} for index in range(4)]
    answers = await asyncio.gather(*(http.post(_PATH, json=body) for body in bodies))
    assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    assert [answer.json()["safety_identifier"] for answer in answers] == ["0", "1", "2", "3"]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4
    assert stages.names.count("denoise") == 1


async def test_a_client_who_leaves_does_not_stop_the_work_of_others(
    http: httpx2.AsyncClient, stages: RecordingStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = asyncio.Semaphore(0)
    once = Coalescer.once

    async def counted(coalescer: Coalescer[Any], key: Hashable, make: Callable[[], Awaitable[Any]]) -> Any:
        joined.release()
        return await once(coalescer, key, make)

    monkeypatch.setattr(Coalescer, "once", counted)
    stages.may_denoise.clear()
    first, second = (asyncio.create_task(http.post(_PATH, json=_QUICK)) for _ in range(2))
    async with asyncio.timeout(20):
        await joined.acquire()
        await joined.acquire()
        await stages.denoising.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert not stages.ended.is_set()
    stages.may_denoise.set()
    assert (await second).status_code == 200
    assert stages.names.count("denoise") == 1
