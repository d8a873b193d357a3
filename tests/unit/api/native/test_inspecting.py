"""Image metadata over HTTP: read from files, sent in headers, and sufficient to make the image again."""

from __future__ import annotations

import base64
import json
from importlib.metadata import version

import httpx2
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier.api.native.inspecting import file_headers, inspection
from atelier.core.errors import InvalidParameter
from atelier.imaging.metadata import Metadata, exif, png_chunks
from tests.pictures import as_base64, decoded, encoded, noise

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
_RECORD = {
    "parameters": {"model": "me/my model_1.0", "seed": 5},
    "weights": {"unet": "1"},
    "versions": {"torch": "2"},
    "exactness_key": "abc",
    "server": "Atelier 1",
}
_NAME = f"{'0123456789abcdef' * 4}.png"


async def _file(http: httpx2.AsyncClient, body: dict[str, object]) -> bytes:
    answer = await http.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


async def _inspect(http: httpx2.AsyncClient, data: bytes) -> dict[str, object]:
    answer = await http.post("/v1/images/inspect", json={"image": base64.b64encode(data).decode()})
    assert answer.status_code == 200, answer.text
    by_form = await http.post("/v1/images/inspect", files={"image": ("upload", data)})
    assert by_form.json() == answer.json()
    inspected: dict[str, object] = answer.json()
    return inspected


def _png(record: dict[str, object]) -> bytes:
    return encoded(Image.new("RGB", (24, 16)), pnginfo=png_chunks(Metadata("text", record)))


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_the_parameters_of_a_file_make_it_again(http: httpx2.AsyncClient, output_format: str) -> None:
    data = await _file(http, {**_REQUEST, "output_format": output_format})
    inspected = await _inspect(http, data)
    assert (inspected["format"], inspected["size"]) == (output_format, "96x64")
    assert isinstance(inspected["parameters"], dict)
    assert await _file(http, inspected["parameters"]) == data


async def test_a_file_names_the_weights_that_made_it(http: httpx2.AsyncClient) -> None:
    inspected = await _inspect(http, await _file(http, _REQUEST))
    plain = inspected["weights"]
    assert isinstance(plain, dict)
    assert set(plain) == {"small-sdxl/text_encoders", "small-sdxl/unet", "small-sdxl/vae"}
    assert inspected["versions"] == {
        name: version(name) for name in ("atelier", "diffusers", "torch", "transformers")
    }
    control = {"kind": "canny", "image": as_base64(Image.new("RGB", (96, 64), "white"))}
    more = await _inspect(http, await _file(http, {**_REQUEST, "controls": [control], "upscale": {"scale": 2}}))
    assert isinstance(more["weights"], dict)
    assert set(more["weights"]) == {*plain, "small-canny", "tiny-x4"}
    assert plain.items() <= more["weights"].items()
    assert all(more["weights"].values())


@pytest.mark.parametrize("output_format", ["png", "webp"])
async def test_the_infotext_is_automatic1111s(http: httpx2.AsyncClient, output_format: str) -> None:
    data = await _file(http, {**_REQUEST, "output_format": output_format})
    inspected = await _inspect(http, data)
    lines = str(inspected["infotext"]).split("\n")
    assert lines[:2] == [_REQUEST["prompt"], "Negative prompt: blue"]
    expected = (
        "Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3.5, Seed: 11, Size: 96x64, Model: small-sdxl"
    )
    assert lines[2].startswith(expected)
    if output_format == "png":
        assert decoded(data).info["parameters"] == inspected["infotext"]


async def test_a_file_from_elsewhere_has_no_metadata(http: httpx2.AsyncClient) -> None:
    for output_format in ("PNG", "JPEG"):
        inspected = await _inspect(http, encoded(Image.new("RGB", (64, 48)), output_format))
        assert inspected == {
            "format": output_format.lower(),
            "size": "64x48",
            "parameters": None,
            "trigger_words_added": [],
            "infotext": None,
            "weights": None,
            "versions": None,
            "exactness_key": None,
            "server": None,
        }


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
        '{"parameters": {"x": ' + "[" * 900 + "]" * 900 + '}, "exactness_key": "x", "server": "x"}',
        "[" * 5000,
    ],
)
async def test_a_record_of_another_shape_is_ignored(http: httpx2.AsyncClient, record: str) -> None:
    chunks = PngInfo()
    chunks.add_itxt("parameters", "a red circle")
    chunks.add_itxt("atelier", record)
    data = encoded(Image.new("RGB", (64, 48)), pnginfo=chunks)
    assert (await _inspect(http, data))["parameters"] is None


async def test_a_stored_file_has_a_name_and_its_metadata_in_headers(http: httpx2.AsyncClient) -> None:
    body = {**_REQUEST, "response_format": "url"}
    url = (await http.post("/v1/images/generations", json=body)).json()["data"][0]["url"]
    headers = (await http.get(url)).headers
    assert 'filename="small-sdxl-11-' in headers["content-disposition"]
    assert json.loads(headers["x-generation-metadata"])["parameters"]["seed"] == 11
    long = {**body, "prompt": "circle " * 590, "num_inference_steps": 1}
    url = (await http.post("/v1/images/generations", json=long)).json()["data"][0]["url"]
    assert "x-generation-metadata" not in (await http.get(url)).headers


async def test_a_file_that_is_not_an_image_is_refused_by_name(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/images/inspect", json={"image": "AAAA"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


def test_an_inspection_has_every_part_of_the_record() -> None:
    assert inspection(_png(_RECORD)).model_dump() == {
        "format": "png",
        "size": "24x16",
        "parameters": {"model": "me/my model_1.0", "seed": 5},
        "trigger_words_added": [],
        "infotext": "text",
        "weights": {"unet": "1"},
        "versions": {"torch": "2"},
        "exactness_key": "abc",
        "server": "Atelier 1",
    }


def test_an_inspection_says_which_trigger_words_were_added() -> None:
    assert inspection(_png({**_RECORD, "trigger_words_added": ["neon style"]})).trigger_words_added == ["neon style"]


def test_an_inspection_of_another_file_names_the_field() -> None:
    with pytest.raises(InvalidParameter) as caught:
        inspection(b"x")
    assert caught.value.param == "image"


def test_a_stored_file_is_named_by_its_model_seed_and_content() -> None:
    headers = file_headers(_png(_RECORD), _NAME)
    assert headers["content-disposition"] == 'inline; filename="me-my-model-1.0-5-01234567.png"'
    assert json.loads(headers["x-generation-metadata"]) == _RECORD
    jpeg = encoded(noise(8, 8), "JPEG", exif=exif(Metadata("text", _RECORD)))
    assert file_headers(jpeg, _NAME.replace("png", "jpeg"))["content-disposition"].endswith('-01234567.jpeg"')


@pytest.mark.parametrize(("num_chars", "is_sent"), [(4000, True), (4001, False)])
def test_metadata_of_more_than_4000_characters_is_no_header(num_chars: int, is_sent: bool) -> None:
    num_others = len(Metadata("", {**_RECORD, "more": ""}).record_json)
    headers = file_headers(_png({**_RECORD, "more": "x" * (num_chars - num_others)}), _NAME)
    assert ("x-generation-metadata" in headers) is is_sent
    assert "content-disposition" in headers


def test_a_stored_file_without_metadata_has_no_headers() -> None:
    assert file_headers(encoded(noise(8, 8)), _NAME) == {}
