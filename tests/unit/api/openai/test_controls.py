"""ControlNets over HTTP: control maps are drawn, returned and accepted again; wrong fields are refused by name."""

from __future__ import annotations

import base64
import json
from random import Random

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from tests.pictures import as_base64, pixels_of
from zoo.control_judge import edge_f1
from zoo.scenes import Description, Thing, arrange, draw

_PATH = "/v1/images/generations"
_SCENE = arrange(
    Description(things=(Thing(colour="red", shape="star", size="large", place="left"),), background="white"),
    Random(1),
    width=128,
    height=96,
)
_QUICK = {"prompt": "a red shape, white background", "num_inference_steps": 2, "seed": 3}
_STAR = as_base64(draw(_SCENE))


async def _annotate(http: httpx2.AsyncClient, **fields: object) -> str:
    answer = await http.post("/v1/images/annotate", json={"image": _STAR, **fields})
    assert answer.status_code == 200, answer.text
    drawn: str = answer.json()["b64_json"]
    return drawn


async def test_a_drawn_map_is_returned_and_makes_the_image_again(http: httpx2.AsyncClient) -> None:
    control = {"kind": "canny", "image": _STAR, "annotate": True}
    answer = (await http.post(_PATH, json={**_QUICK, "controls": [control]})).json()
    [drawn] = answer["control_maps"]
    assert drawn == {"kind": "canny", "b64_json": await _annotate(http, kind="canny")}
    assert answer["size"] == "128x96"
    [picture] = answer["data"]
    [echoed] = picture["parameters"]["controls"]
    assert echoed["model"] == "small-canny"
    for image, annotate in ((_STAR, True), (drawn["b64_json"], False)):
        again = {**picture["parameters"], "controls": [{**echoed, "annotate": annotate, "image": image}]}
        repeated = (await http.post(_PATH, json=again)).json()
        assert np.array_equal(pixels_of(repeated["data"][0]["b64_json"]), pixels_of(picture["b64_json"]))
        assert ("control_maps" in repeated) == annotate


async def test_a_map_changes_the_image(http: httpx2.AsyncClient) -> None:
    bodies = [
        {**_QUICK, "size": "128x96", "controls": [{"kind": "canny", "image": _STAR}][:number]} for number in (0, 1)
    ]
    plain, controlled = [(await http.post(_PATH, json=body)).json()["data"][0]["b64_json"] for body in bodies]
    assert not np.array_equal(pixels_of(plain), pixels_of(controlled))


@pytest.mark.zoo
async def test_the_image_follows_the_map(zoo_http: httpx2.AsyncClient) -> None:
    edges = await _annotate(zoo_http, kind="canny")
    scores = []
    for controls in ([{"model": "tiny-canny", "image": edges}], []):
        body = {**_QUICK, "num_inference_steps": 10, "size": "128x96", "controls": controls}
        made = (await zoo_http.post(_PATH, json=body)).json()["data"][0]["b64_json"]
        drawn = (await zoo_http.post("/v1/images/annotate", json={"image": made, "kind": "canny"})).json()["b64_json"]
        scores.append(edge_f1(pixels_of(drawn), pixels_of(edges)))
    assert scores[0] > 0.8
    assert scores[0] > scores[1] + 0.3


@pytest.mark.parametrize("kind", ["canny", "softedge", "lineart", "scribble", "depth"])
async def test_every_kind_of_map_shows_the_star(http: httpx2.AsyncClient, kind: str) -> None:
    drawn = pixels_of(await _annotate(http, kind=kind))
    assert drawn.shape == (96, 128, 3)
    star, corner = drawn[20:76, 5:64], drawn[:20, 100:]
    assert star.max() > 200
    assert corner.max() < 40


async def test_thresholds_decide_what_is_an_edge(http: httpx2.AsyncClient) -> None:
    faint = Image.new("RGB", (64, 64), (120, 120, 120))
    faint.paste((140, 140, 140), (0, 0, 32, 64))
    found = [
        pixels_of(await _annotate(http, kind="canny", image=as_base64(faint), **thresholds)).any()
        for thresholds in ({}, {"low_threshold": 20, "high_threshold": 40})
    ]
    assert found == [False, True]


async def test_the_openai_client_sends_controls_with_an_edit(client: openai.AsyncOpenAI) -> None:
    controls: list[dict[str, object]] = [
        {"kind": "canny", "image": _STAR, "scale": 0.5},
        {"kind": "depth", "image": _STAR, "scale": 0.7},
    ]
    ours: dict[str, object] = {"num_inference_steps": 3, "controls": controls}
    answer = await client.images.edit(image=base64.b64decode(_STAR), prompt="a blue shape", extra_body=ours)
    assert answer.data is not None
    sent = answer.data[0].model_extra
    assert sent is not None
    assert [(one["model"], one["scale"]) for one in sent["parameters"]["controls"]] == [
        ("small-canny", 0.5),
        ("small-depth", 0.7),
    ]
    controls[0]["annotate"] = True
    with pytest.raises(openai.BadRequestError, match="one JSON text"):
        await client.images.edit(image=base64.b64decode(_STAR), prompt="a blue shape", extra_body=ours)
    as_text = {**ours, "controls": json.dumps(controls)}
    annotated = await client.images.edit(image=base64.b64decode(_STAR), prompt="a blue shape", extra_body=as_text)
    assert annotated.model_extra is not None
    assert [drawn["kind"] for drawn in annotated.model_extra["control_maps"]] == ["canny"]


@pytest.mark.parametrize(
    ("control", "param", "words"),
    [
        ({"kind": "canny"}, "controls[0].image", "required"),
        ({"kind": "canny", "image": "AAAA"}, "controls[0].image", "readable"),
        ({"kind": "canny", "image": "%"}, "controls[0].image", "base64"),
        ({"image": _STAR}, "controls[0]", "model or kind"),
        ({"kind": "canny", "model": "small-canny", "image": _STAR}, "controls[0]", "model or kind"),
        ({"kind": "pose", "image": _STAR}, "controls[0].kind", "canny"),
        ({"kind": "lineart", "image": _STAR}, "controls[0].kind", "small-depth"),
        ({"model": "nope", "image": _STAR}, "controls[0].model", "small-canny"),
        ({"kind": "canny", "image": _STAR, "scale": 3}, "controls[0].scale", "2"),
        ({"kind": "canny", "image": _STAR, "start": 0.5, "end": 0.5}, "controls[0]", "below"),
        ({"kind": "canny", "image": _STAR, "weight": 1}, "controls[0].weight", "scale"),
    ],
)
async def test_a_control_that_makes_no_sense_is_refused_by_name(
    http: httpx2.AsyncClient, control: dict[str, object], param: str, words: str
) -> None:
    answer = await http.post(_PATH, json={**_QUICK, "controls": [control]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"]


async def test_more_than_four_controls_are_refused(http: httpx2.AsyncClient) -> None:
    controls = [{"kind": "canny", "image": _STAR}] * 5
    answer = await http.post(_PATH, json={**_QUICK, "controls": controls})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "controls")
