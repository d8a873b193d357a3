"""Files tell how their pictures were made, and what they tell makes them again."""

from __future__ import annotations

import base64
import io
import json
from importlib.metadata import version

import httpx2
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

_REQUEST = {
    "prompt": "a red circle — «größer», 赤い",
    "negative_prompt": "blue",
    "size": "96x64",
    "num_inference_steps": 3,
    "seed": 11,
    "guidance_scale": 3.5,
    "sampler": "dpmpp_2m",
    "schedule": "karras",
    "reproducibility": "exact",
}


async def _file(http: httpx2.AsyncClient, body: dict[str, object]) -> bytes:
    answer = await http.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


async def _inspect(http: httpx2.AsyncClient, data: bytes) -> dict[str, object]:
    answer = await http.post("/v1/images/inspect", json={"image": base64.b64encode(data).decode()})
    assert answer.status_code == 200, answer.text
    by_form = await http.post("/v1/images/inspect", files={"image": ("upload", data)})
    assert by_form.json() == answer.json()
    told: dict[str, object] = answer.json()
    return told


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_what_a_file_tells_makes_it_again(http: httpx2.AsyncClient, output_format: str) -> None:
    data = await _file(http, {**_REQUEST, "output_format": output_format})
    told = await _inspect(http, data)
    assert (told["format"], told["size"]) == (output_format, "96x64")
    assert isinstance(told["parameters"], dict)
    assert await _file(http, told["parameters"]) == data


async def test_a_file_tells_the_weights_that_made_it(http: httpx2.AsyncClient) -> None:
    told = await _inspect(http, await _file(http, _REQUEST))
    plain = told["weights"]
    assert isinstance(plain, dict)
    assert set(plain) == {"tiny-sdxl/text_encoders", "tiny-sdxl/unet", "tiny-sdxl/vae"}
    assert told["versions"] == {name: version(name) for name in ("atelier", "diffusers", "torch", "transformers")}
    image = io.BytesIO()
    Image.new("RGB", (96, 64), "white").save(image, "PNG")
    control = {"kind": "canny", "image": base64.b64encode(image.getvalue()).decode()}
    more = await _inspect(http, await _file(http, {**_REQUEST, "controls": [control], "upscale": {"scale": 2}}))
    assert isinstance(more["weights"], dict)
    assert set(more["weights"]) == {*plain, "tiny-canny", "tiny-x4"}
    assert plain.items() <= more["weights"].items()
    assert all(more["weights"].values())


@pytest.mark.parametrize("output_format", ["png", "webp"])
async def test_the_infotext_is_automatic1111s(http: httpx2.AsyncClient, output_format: str) -> None:
    data = await _file(http, {**_REQUEST, "output_format": output_format})
    told = await _inspect(http, data)
    lines = str(told["infotext"]).split("\n")
    assert lines[:2] == [_REQUEST["prompt"], "Negative prompt: blue"]
    expected = (
        "Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3.5, Seed: 11, Size: 96x64, Model: tiny-sdxl"
    )
    assert lines[2].startswith(expected)
    if output_format == "png":
        assert Image.open(io.BytesIO(data)).info["parameters"] == told["infotext"]


async def test_a_file_of_somebody_else_tells_nothing(http: httpx2.AsyncClient) -> None:
    for output_format in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.new("RGB", (64, 48)).save(file, output_format)
        told = await _inspect(http, file.getvalue())
        assert told["size"] == "64x48"
        assert told["parameters"] is None
        assert told["infotext"] is None


@pytest.mark.parametrize(
    "record",
    [
        '{"parameters": {}, "exactness_key": 5, "server": "x"}',
        '{"parameters": {}, "exactness_key": "x", "server": []}',
        '{"parameters": {"prompt": "\\ud800"}, "exactness_key": "x", "server": "x"}',
        '{"parameters": 3}',
        '{"parameters": {"x": ' + "[" * 300 + "]" * 300 + '}, "exactness_key": "x", "server": "x"}',
        '{"parameters": {}, "versions": ["x"], "exactness_key": "x", "server": "x"}',
        '{"parameters": {}, "weights": {"x": 1}, "exactness_key": "x", "server": "x"}',
        "[" * 5000,
    ],
)
async def test_a_record_that_lies_tells_nothing(http: httpx2.AsyncClient, record: str) -> None:
    chunks = PngInfo()
    chunks.add_itxt("parameters", "a red circle")
    chunks.add_itxt("atelier", record)
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "PNG", pnginfo=chunks)
    assert (await _inspect(http, file.getvalue()))["parameters"] is None


async def test_a_fetched_file_has_a_name_and_tells_in_its_headers(http: httpx2.AsyncClient) -> None:
    body = {**_REQUEST, "response_format": "url"}
    url = (await http.post("/v1/images/generations", json=body)).json()["data"][0]["url"]
    headers = (await http.get(url)).headers
    assert 'filename="tiny-sdxl-11-' in headers["content-disposition"]
    assert json.loads(headers["x-generation-metadata"])["parameters"]["seed"] == 11
    long = {**body, "prompt": "circle " * 590, "num_inference_steps": 1}
    url = (await http.post("/v1/images/generations", json=long)).json()["data"][0]["url"]
    assert "x-generation-metadata" not in (await http.get(url)).headers


async def test_no_picture_is_refused_by_name(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/images/inspect", json={"image": "AAAA"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
