"""POST /v1/images/generations as a plain HTTP client meets it."""

from __future__ import annotations

import base64
import io
import json

import httpx2
import pytest
from PIL import Image

from atelier.local import LocalStages
from tests.unit.api.conftest import MAX_BODY_BYTES

_PATH = "/v1/images/generations"
_QUICK = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2, "seed": 7}


async def test_a_picture_comes_as_base64_with_its_seed_and_parameters(http: httpx2.AsyncClient) -> None:
    response = await http.post(_PATH, json={**_QUICK, "n": 2, "size": "96x64"})
    answer = response.json()
    assert response.status_code == 200
    assert [image["seed"] for image in answer["data"]] == [7, 8]
    assert (answer["output_format"], answer["size"]) == ("png", "96x64")
    for image in answer["data"]:
        picture = Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))
        assert (picture.format, picture.size, picture.mode) == ("PNG", (96, 64), "RGB")
        assert "url" not in image


async def test_a_results_parameters_make_the_same_picture_again(http: httpx2.AsyncClient) -> None:
    second = (await http.post(_PATH, json={**_QUICK, "n": 2, "negative_prompt": "blue"})).json()["data"][1]
    again = (await http.post(_PATH, json=second["parameters"])).json()["data"][0]
    ours, theirs = (
        list(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).tobytes()) for image in (second, again)
    )
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1


@pytest.mark.parametrize(("output_format", "pillow_format"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
async def test_a_picture_behind_a_url_can_be_fetched(
    http: httpx2.AsyncClient, output_format: str, pillow_format: str
) -> None:
    body = {**_QUICK, "response_format": "url", "output_format": output_format}
    [image] = (await http.post(_PATH, json=body)).json()["data"]
    file = await http.get(image["url"])
    assert file.headers["content-type"] == f"image/{output_format}"
    assert Image.open(io.BytesIO(file.content)).format == pillow_format


@pytest.mark.parametrize("name", ["x.png", f"{'0' * 64}.png", f"{'0' * 64}.exe", "..%2F..%2Fetc%2Fpasswd"])
async def test_no_other_file_can_be_fetched(http: httpx2.AsyncClient, name: str) -> None:
    assert (await http.get(f"/v1/images/files/{name}")).status_code == 404


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
        (b'{"prompt": "x", "model": "dall-e-3"}', 404, "model", "model_not_found"),
        (b'{"prompt": "x", "size": "256x256", "n": 10}', 400, None, "too_much_work"),
        (b'{"prompt": "x", "clip_skip": 2}', 501, "clip_skip", "not_supported"),
        (b'{"prompt": "x", "sampler": "euler_a", "schedule": "karras"}', 400, "schedule", "invalid_value"),
    ],
)
async def test_bad_requests_are_refused_before_any_model_runs(
    http: httpx2.AsyncClient, local_stages: LocalStages, body: bytes, status: int, param: str | None, code: str
) -> None:
    steps_before = local_stages.engine.status().num_steps
    response = await http.post(_PATH, content=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["message"]
    assert response.headers["x-should-retry"] == "false"
    assert local_stages.engine.status().num_steps == steps_before


async def test_a_prompt_longer_than_the_encoders_read_is_refused(http: httpx2.AsyncClient) -> None:
    response = await http.post(_PATH, json={"prompt": "circle " * 700})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "prompt")
    assert "700 tokens" in error["message"]


async def test_a_body_over_the_limit_is_refused_declared_or_not(http: httpx2.AsyncClient) -> None:
    large = json.dumps({"prompt": "x" * MAX_BODY_BYTES}).encode()

    async def in_chunks() -> object:
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000]

    for content in (large, in_chunks()):
        response = await http.post(_PATH, content=content)  # type: ignore[arg-type]
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_deadline_ends_the_work(http: httpx2.AsyncClient, local_stages: LocalStages) -> None:
    body = {**_QUICK, "size": "160x160", "num_inference_steps": 150, "deadline_s": 0.2}
    response = await http.post(_PATH, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (504, "deadline_s")
    steps = local_stages.engine.status().num_steps
    await http.post(_PATH, json=_QUICK)
    assert local_stages.engine.status().num_steps <= steps + 1 + 2
