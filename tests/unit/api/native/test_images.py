"""Larger pictures: of a client's own, of a generation, and drawn again at their size."""

from __future__ import annotations

import base64
import io
import json

import httpx2
import numpy as np
import pytest
from PIL import Image

from atelier.pipeline.pipeline import Pipeline

_QUICK = {"prompt": "a large red circle, white background", "num_inference_steps": 12, "seed": 4, "size": "64x64"}


def _base64(picture: Image.Image, output_format: str = "PNG") -> str:
    file = io.BytesIO()
    picture.save(file, output_format)
    return base64.b64encode(file.getvalue()).decode()


def _picture(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


@pytest.mark.parametrize(("scale", "size"), [(4, (100, 60)), (2.5, (62, 38)), (1, (25, 15)), (None, (100, 60))])
async def test_a_picture_is_made_larger(http: httpx2.AsyncClient, scale: float | None, size: tuple[int, int]) -> None:
    body = {"image": _base64(Image.new("RGB", (25, 15), "orange")), "scale": scale}
    answer = (await http.post("/v1/images/upscale", json=body)).json()
    assert (answer["upscaler"], answer["size"]) == ("tiny-x4", f"{size[0]}x{size[1]}")
    picture = _picture(answer["data"][0]["b64_json"])
    assert picture.size == size
    assert np.abs(np.asarray(picture).astype(int) - (255, 165, 0)).mean() < 12


async def test_alpha_stays_and_a_form_does_too(http: httpx2.AsyncClient) -> None:
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (8, 0, 16, 16))
    data = base64.b64decode(_base64(picture))
    form = {"scale": "2", "output_format": "webp"}
    answer = await http.post("/v1/images/upscale", data=form, files={"image": ("upload", data)})
    large = _picture(answer.json()["data"][0]["b64_json"])
    assert (large.size, large.mode) == ((32, 32), "RGBA")
    alpha = np.asarray(large)[..., 3]
    assert alpha[:, :12].min() > 240
    assert alpha[:, 20:].max() < 15
    jpeg = await http.post(
        "/v1/images/upscale", data={**form, "output_format": "jpeg"}, files={"image": ("upload", data)}
    )
    assert np.asarray(_picture(jpeg.json()["data"][0]["b64_json"]))[:, 24:].min() > 240


async def test_enhance_media_answers_a_data_url(http: httpx2.AsyncClient) -> None:
    image = f"data:image/png;base64,{_base64(Image.new('RGB', (10, 20), 'green'))}"
    answer = (await http.post("/enhance-media", json={"image": image, "scale": 4.0})).json()
    assert answer["image"].startswith("data:image/png;base64,")
    assert _picture(answer["image"].partition(",")[2]).size == (40, 80)
    assert (answer["width"], answer["height"], answer["model"], answer["is_fallback"]) == (40, 80, "tiny-x4", False)


async def test_a_generation_is_made_larger_at_its_end(http: httpx2.AsyncClient) -> None:
    plain = (await http.post("/v1/images/generations", json=_QUICK)).json()
    answer = (await http.post("/v1/images/generations", json={**_QUICK, "n": 2, "upscale": {"scale": 2}})).json()
    assert (answer["size"], answer["upscaler"]) == ("128x128", "tiny-x4")
    assert answer["exactness_key"] != plain["exactness_key"]
    large, small = _picture(answer["data"][0]["b64_json"]), _picture(plain["data"][0]["b64_json"])
    assert large.size == (128, 128)
    difference = np.asarray(large.resize((64, 64), Image.Resampling.BOX)).astype(int) - np.asarray(small)
    assert np.abs(difference).mean() < 12
    again = (await http.post("/v1/images/generations", json=answer["data"][0]["parameters"])).json()
    assert _picture(again["data"][0]["b64_json"]).size == (128, 128)


async def test_hires_draws_the_same_scene_again_larger(http: httpx2.AsyncClient) -> None:
    body = {**_QUICK, "hires": {"scale": 2, "strength": 0.5, "steps": 8}}
    answer = (await http.post("/v1/images/generations", json=body)).json()
    pixels = np.asarray(_picture(answer["data"][0]["b64_json"])).astype(int)
    assert pixels.shape == (128, 128, 3)
    assert np.abs(pixels[56:72, 56:72] - (220, 40, 40)).mean() < 40
    assert np.abs(pixels[:8, :8] - (245, 245, 245)).mean() < 40
    assert answer["data"][0]["parameters"]["hires"] == {
        "scale": 2.0,
        "strength": 0.5,
        "steps": 8,
        "model": "tiny-x4",
    }
    assert answer["upscaler"] == "tiny-x4"
    again = await http.post("/v1/images/generations", json=answer["data"][0]["parameters"])
    assert again.json()["data"][0]["b64_json"] == answer["data"][0]["b64_json"]
    both = {**body, "hires": {"scale": 1.5}, "upscale": {"scale": 2}}
    assert (await http.post("/v1/images/generations", json=both)).json()["size"] == "192x192"


async def test_an_exact_picture_drawn_again_is_the_same_alone_and_with_another(http: httpx2.AsyncClient) -> None:
    body = {**_QUICK, "reproducibility": "exact", "hires": {"scale": 1.5, "steps": 4}, "num_inference_steps": 3}
    alone, together = [
        (await http.post("/v1/images/generations", json={**body, "n": n})).json()["data"][0] for n in (1, 2)
    ]
    assert alone["b64_json"] == together["b64_json"]


@pytest.mark.parametrize("step", ["upscale", "hires"])
async def test_a_stream_says_what_made_it_larger_and_bicubic_where_there_are_no_weights(
    local_pipeline: Pipeline, http: httpx2.AsyncClient, step: str
) -> None:
    body = {**_QUICK, "num_inference_steps": 2, "stream": True, step: {"scale": 1.5}}
    told = []
    for upscalers in (local_pipeline.catalogue.upscalers, ()):
        local_pipeline.catalogue = local_pipeline.catalogue.model_copy(update={"upscalers": upscalers})
        lines = (await http.post("/v1/images/generations", json=body)).text.splitlines()
        told.append(json.loads(lines[1].removeprefix("data: "))["upscaler"])
    assert told == ["tiny-x4", "bicubic"]


async def test_a_picture_drawn_twice_counts_twice(http: httpx2.AsyncClient) -> None:
    body = {**_QUICK, "num_inference_steps": 4, "hires": {"scale": 2}, "n": 2}
    answer = (await http.post("/v1/images/generations", json=body)).json()
    assert answer["usage"]["output_tokens"] == 2 * (8 * 8 + 16 * 16)


async def test_an_opaque_alpha_channel_is_none(http: httpx2.AsyncClient) -> None:
    body = {"image": _base64(Image.new("RGBA", (16, 16), (255, 0, 0, 255)))}
    answer = (await http.post("/v1/images/upscale", json=body)).json()
    assert _picture(answer["data"][0]["b64_json"]).mode == "RGB"


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/images/upscale", {}, 400, "image"),
        ("/v1/images/upscale", {"image": "AAAA"}, 400, "image"),
        ("/v1/images/upscale", {"image": _base64(Image.new("RGB", (8, 8))), "scale": 5}, 400, "scale"),
        ("/v1/images/upscale", {"image": _base64(Image.new("RGB", (2000, 2000)))}, 400, "scale"),
        ("/v1/images/upscale", {"image": _base64(Image.new("1", (4096, 1025))), "scale": 1}, 400, "scale"),
        ("/v1/images/upscale", {"image": _base64(Image.new("1", (1_048_577, 1))), "scale": 1}, 400, "scale"),
        (
            "/v1/images/upscale",
            {"image": _base64(Image.new("1", (4200, 8))), "output_format": "webp"},
            400,
            "output_format",
        ),
        (
            "/v1/images/upscale",
            {"image": _base64(Image.new("1", (16_400, 4))), "output_format": "jpeg"},
            400,
            "output_format",
        ),
        (
            "/v1/images/upscale",
            {"image": _base64(Image.new("RGB", (8, 8))), "output_compression": 50},
            400,
            "output_compression",
        ),
        ("/v1/images/upscale", {"image": _base64(Image.new("RGB", (8, 8))), "model": "x"}, 404, "model"),
        ("/enhance-media", {"image": "%"}, 400, "image"),
        ("/v1/images/generations", {**_QUICK, "upscale": {"scale": 9}}, 400, "upscale.scale"),
        ("/v1/images/generations", {**_QUICK, "upscale": {"model": "x"}}, 404, "model"),
        ("/v1/images/generations", {**_QUICK, "hires": {"scale": 1}}, 400, "hires.scale"),
        ("/v1/images/generations", {**_QUICK, "size": "256x256", "hires": {}}, 400, "hires"),
        ("/v1/images/generations", {**_QUICK, "hires": {"strength": 0.01}}, 400, "hires"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    http: httpx2.AsyncClient, path: str, body: dict[str, object], status: int, param: str
) -> None:
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
