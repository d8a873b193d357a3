"""Generations that are enlarged at their end, or denoised a second time at a larger size."""

from __future__ import annotations

import json

import httpx2
import numpy as np
import pytest
from PIL import Image

from atelier.pipeline.pipeline import Pipeline
from tests.pictures import decoded, pixels_of

_PATH = "/v1/images/generations"
_QUICK = {"prompt": "a large red circle, white background", "num_inference_steps": 2, "seed": 4, "size": "64x32"}
_ZOO = {**_QUICK, "num_inference_steps": 12, "size": "64x64"}


async def test_a_generation_is_enlarged_at_its_end(http: httpx2.AsyncClient) -> None:
    plain = (await http.post(_PATH, json=_QUICK)).json()
    answer = (await http.post(_PATH, json={**_QUICK, "n": 2, "upscale": {"scale": 2}})).json()
    assert (answer["size"], answer["upscaler"]) == ("128x64", "tiny-x4")
    assert answer["exactness_key"] != plain["exactness_key"]
    assert "upscaler" not in plain
    assert [decoded(image["b64_json"]).size for image in answer["data"]] == [(128, 64)] * 2
    again = (await http.post(_PATH, json=answer["data"][0]["parameters"])).json()
    assert decoded(again["data"][0]["b64_json"]).size == (128, 64)


@pytest.mark.zoo
async def test_an_enlarged_generation_shows_the_same(zoo_http: httpx2.AsyncClient) -> None:
    plain = (await zoo_http.post(_PATH, json=_ZOO)).json()
    answer = (await zoo_http.post(_PATH, json={**_ZOO, "n": 2, "upscale": {"scale": 2}})).json()
    large, small = decoded(answer["data"][0]["b64_json"]), decoded(plain["data"][0]["b64_json"])
    assert large.size == (128, 128)
    difference = np.asarray(large.resize((64, 64), Image.Resampling.BOX)).astype(int) - np.asarray(small)
    assert np.abs(difference).mean() < 12


@pytest.mark.zoo
async def test_hires_draws_the_same_scene_again_larger(zoo_http: httpx2.AsyncClient) -> None:
    body = {**_ZOO, "hires": {"scale": 2, "strength": 0.5, "steps": 8}}
    answer = (await zoo_http.post(_PATH, json=body)).json()
    pixels = pixels_of(answer["data"][0]["b64_json"]).astype(int)
    assert pixels.shape == (128, 128, 3)
    assert np.abs(pixels[56:72, 56:72] - (220, 40, 40)).mean() < 40
    assert np.abs(pixels[:8, :8] - (245, 245, 245)).mean() < 40


async def test_parameters_of_a_second_pass_make_it_again(http: httpx2.AsyncClient) -> None:
    body = {**_QUICK, "hires": {"scale": 2, "strength": 0.5, "steps": 8}}
    answer = (await http.post(_PATH, json=body)).json()
    assert decoded(answer["data"][0]["b64_json"]).size == (128, 64)
    assert answer["data"][0]["parameters"]["hires"] == {
        "scale": 2.0,
        "strength": 0.5,
        "steps": 8,
        "model": "tiny-x4",
    }
    assert answer["upscaler"] == "tiny-x4"
    again = await http.post(_PATH, json=answer["data"][0]["parameters"])
    assert again.json()["data"][0]["b64_json"] == answer["data"][0]["b64_json"]


async def test_hires_comes_before_upscale(http: httpx2.AsyncClient) -> None:
    both = {**_QUICK, "hires": {"scale": 1.5}, "upscale": {"scale": 2}}
    assert (await http.post(_PATH, json=both)).json()["size"] == "192x96"


async def test_an_exact_second_pass_is_the_same_alone_and_with_another(http: httpx2.AsyncClient) -> None:
    body = {**_QUICK, "reproducibility": "exact", "hires": {"scale": 1.5, "steps": 4}, "num_inference_steps": 3}
    alone, together = [(await http.post(_PATH, json={**body, "n": n})).json()["data"][0] for n in (1, 2)]
    assert alone["b64_json"] == together["b64_json"]


@pytest.mark.parametrize("step", ["upscale", "hires"])
async def test_a_stream_names_the_upscaler_or_bicubic_without_weights(
    pipeline: Pipeline, http: httpx2.AsyncClient, step: str
) -> None:
    body = {**_QUICK, "num_inference_steps": 2, "stream": True, step: {"scale": 1.5}}
    named = []
    for upscalers in (pipeline.catalogue.upscalers, ()):
        pipeline.catalogue = pipeline.catalogue.model_copy(update={"upscalers": upscalers})
        lines = (await http.post(_PATH, json=body)).text.splitlines()
        named.append(json.loads(lines[1].removeprefix("data: "))["upscaler"])
    assert named == ["tiny-x4", "bicubic"]


async def test_an_image_that_is_denoised_twice_counts_twice(http: httpx2.AsyncClient) -> None:
    body = {**_QUICK, "size": "64x64", "num_inference_steps": 4, "hires": {"scale": 2}, "n": 2}
    answer = (await http.post(_PATH, json=body)).json()
    assert answer["usage"]["output_tokens"] == 2 * (8 * 8 + 16 * 16)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"upscale": {"scale": 9}}, 400, "upscale.scale"),
        ({"upscale": {"model": "x"}}, 404, "upscale.model"),
        ({"hires": {"scale": 1}}, 400, "hires.scale"),
        ({"size": "256x256", "hires": {}}, 400, "hires"),
        ({"hires": {"strength": 0.01}}, 400, "hires"),
    ],
)
async def test_what_cannot_be_enlarged_is_refused_by_name(
    http: httpx2.AsyncClient, fields: dict[str, object], status: int, param: str
) -> None:
    answer = await http.post(_PATH, json={**_QUICK, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
