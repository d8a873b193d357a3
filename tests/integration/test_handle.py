"""Calls of the graph by handle, from a driver that has `atelier` installed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from random import Random
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from ray import serve
from ray.serve.handle import DeploymentHandle

from atelier.core.errors import InvalidParameter, NotSupported
from atelier.core.params import GenerateParams
from tests.integration.steps import Steps
from tests.pictures import encoded, noise
from zoo.judge import judge
from zoo.scenes import Description, Thing, arrange, draw, random_description

_IMAGES_ANSWER = {"images", "control_maps", "size", "usage", "upscaler", "exactness_key", "cached", "request_id"}
_GREEN_STAR = Description(things=(Thing(colour="green", shape="star"),), background="black")
#: Steps that may still run between the last look at the counter and the cancellation's arrival.
_MAX_LATE_STEPS = 3


def _plain(value: object) -> bool:
    """Return whether the value is made of Python's own types only, which any process can unpickle."""
    match value:
        case dict():
            return type(value) is dict and all(type(name) is str and _plain(field) for name, field in value.items())
        case list():
            return type(value) is list and all(map(_plain, value))
        case _:
            return value is None or type(value) in (str, bytes, int, float, bool)


def _picture(answer: Mapping[str, Any]) -> Image.Image:
    [image] = answer["images"]
    return Image.open(io.BytesIO(image["image"]))


def _pixels(image: Image.Image) -> npt.NDArray[np.int_]:
    return np.asarray(image, dtype=int)


def _square(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def atelier(address: str) -> DeploymentHandle:
    assert address
    return serve.get_app_handle("atelier")


def test_generations_have_usage_and_size(atelier: DeploymentHandle) -> None:
    response = atelier.generate.remote({"prompt": "a green star, black background", "seed": 3, "n": 2})
    answer = response.result(timeout_s=60)
    assert _plain(answer)
    assert set(answer) == _IMAGES_ANSWER
    assert answer["request_id"] == response.request_id
    assert (answer["size"], answer["upscaler"], answer["control_maps"]) == ("128x128", None, [])
    assert answer["usage"]["output_tokens"] == 2 * 16 * 16
    assert answer["usage"]["total_tokens"] == answer["usage"]["input_tokens"] + 2 * 16 * 16
    assert [(image["seed"], image["media_type"]) for image in answer["images"]] == [
        (3, "image/png"),
        (4, "image/png"),
    ]
    [picture, _] = [Image.open(io.BytesIO(image["image"])) for image in answer["images"]]
    assert judge(picture, _GREEN_STAR).is_right


def test_typed_params_make_the_same_image(atelier: DeploymentHandle) -> None:
    fields: dict[str, Any] = {"prompt": "a green star", "seed": 3, "num_inference_steps": 4, "output_format": "webp"}
    mapping, typed = [
        atelier.generate.remote(params).result(timeout_s=60) for params in (fields, GenerateParams(**fields))
    ]
    assert mapping["images"][0]["parameters"] == typed["images"][0]["parameters"]
    assert np.abs(_pixels(_picture(mapping)) - _pixels(_picture(typed))).mean() < 1


def test_edits_and_variations_start_from_an_image(atelier: DeploymentHandle) -> None:
    generated = atelier.generate.remote({"prompt": "a red star, black background", "seed": 1}).result(timeout_s=60)
    star = generated["images"][0]["image"]
    edit = {"image": star, "prompt": "a green star, black background", "seed": 2, "strength": 0.8}
    edited = atelier.edit.remote(edit).result(timeout_s=60)
    varied = atelier.variation.remote({"image": star, "seed": 2, "strength": 0.1}).result(timeout_s=60)
    assert set(edited) == set(varied) == _IMAGES_ANSWER
    assert judge(_picture(edited), _GREEN_STAR).is_right
    assert np.abs(_pixels(_picture(varied)) - _pixels(_picture(generated))).mean() < 10


def test_errors_of_edits_have_openais_names(atelier: DeploymentHandle) -> None:
    asked = {"prompt": "a star", "image": _square("red"), "mask": b"not an image"}
    with pytest.raises(InvalidParameter) as caught:
        atelier.edit.remote(asked).result(timeout_s=60)
    assert caught.value.param == "mask"


async def test_a_stream_reports_the_plan_steps_previews_and_the_result(atelier: DeploymentHandle) -> None:
    asked = {
        "prompt": "a green star, black background",
        "seed": 3,
        "num_inference_steps": 100,
        "output_format": "webp",
    }
    response = atelier.options(stream=True).stream.remote({**asked, "progress": True, "partial_images": 2})
    events = [event async for event in response]
    assert _plain(events)
    planned, *_, result = events
    assert planned == {"type": "planned", "request_id": response.request_id, "size": "128x128", "seeds": [3]}
    steps = [event for event in events if event["type"] == "step"]
    assert [(event["step"], event["total"]) for event in steps] == [(step, 100) for step in range(1, 101)]
    assert steps[-1]["elapsed_s"] > 0 == steps[-1]["eta_s"]
    previews = [event for event in events if event["type"] == "preview"]
    assert [event["index"] for event in previews] in ([0], [0, 1])  # the second may come too late
    assert {_picture(event).format for event in previews} == {"WEBP"}
    assert {event["images"][0]["media_type"] for event in previews} == {"image/webp"}
    assert len(events) == 1 + len(steps) + len(previews) + 1
    assert (result["type"], set(result)) == ("result", {"type", *_IMAGES_ANSWER})
    assert judge(_picture(result), _GREEN_STAR).is_right


async def test_a_stream_without_reports_has_the_plan_and_the_result(atelier: DeploymentHandle) -> None:
    events = atelier.options(stream=True).stream.remote({"prompt": "x", "size": "64x64", "num_inference_steps": 2})
    assert [event["type"] async for event in events] == ["planned", "result"]


async def test_a_cancelled_stream_stops_the_work(atelier: DeploymentHandle, steps: Steps) -> None:
    before = await steps.until_idle()
    slow = {"prompt": "a red circle", "num_inference_steps": 150, "size": "256x256", "n": 2, "progress": True}
    events = atelier.options(stream=True).stream.remote(slow)
    async for event in events:
        if event["type"] == "step" and event["step"] == 5:
            break
    events.cancel()
    seen = await steps.done()
    assert seen - before >= 5
    assert await steps.until_idle() - seen <= _MAX_LATE_STEPS


def test_control_maps_have_kind_and_size(atelier: DeploymentHandle) -> None:
    answer = atelier.annotate.remote({"image": _square("red"), "kind": "canny"}).result(timeout_s=60)
    drawn = Image.open(io.BytesIO(answer.pop("image")))
    assert (drawn.format, drawn.size) == ("PNG", (64, 64))
    assert answer == {"kind": "canny", "size": "64x64", "media_type": "image/png"}


def test_the_metadata_of_a_generated_image_are_read(atelier: DeploymentHandle) -> None:
    asked = {"prompt": "x", "size": "64x64", "num_inference_steps": 1, "seed": 9}
    [image] = atelier.generate.remote(asked).result(timeout_s=60)["images"]
    read = atelier.inspect.remote({"image": image["image"]}).result(timeout_s=60)
    assert _plain(read)
    assert (read["format"], read["size"], read["parameters"]) == ("png", "64x64", image["parameters"])


def test_models_are_listed_with_their_defaults(atelier: DeploymentHandle, address: str) -> None:
    served = atelier.models.remote().result(timeout_s=60)
    assert _plain(served)
    assert set(served) == {"models", "controlnets", "loras", "upscalers"}
    described = httpx2.get(address).json()
    assert served == {name: described[name] for name in served}


def test_errors_keep_their_types(atelier: DeploymentHandle) -> None:
    with pytest.raises(InvalidParameter) as caught:
        atelier.generate.remote({"prompt": "x", "n": 0}).result(timeout_s=60)
    assert "got 0" in str(caught.value)
    assert (caught.value.param, caught.value.status, caught.value.code) == ("n", 400, "invalid_value")
    with pytest.raises(NotSupported):
        atelier.generate.remote({"prompt": "x", "clip_skip": 1}).result(timeout_s=60)


async def test_errors_of_streams_keep_their_types(atelier: DeploymentHandle) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await anext(atelier.options(stream=True).stream.remote({"prompt": "x", "n": 0}))
    assert (caught.value.param, caught.value.status, caught.value.code) == ("n", 400, "invalid_value")


def test_large_arrays_and_files_pass_between_the_deployments(atelier: DeploymentHandle) -> None:
    """Images of 7.7 MB from the Upscaler, and a file of more than 4 MiB, the limit that gRPC has by itself."""
    answer = atelier.upscale.remote({"image": encoded(noise(400, 400)), "scale": 4}).result(timeout_s=120)
    assert Image.open(io.BytesIO(answer["image"])).size == (1600, 1600)
    assert len(answer["image"]) > 4 * 2**20


def test_small_images_upscaled_together_equal_those_upscaled_alone(address: str) -> None:
    assert address
    atelier = serve.get_app_handle("atelier")
    files = [io.BytesIO() for _ in range(6)]
    for index, file in enumerate(files):
        described = random_description(Random(index), num_things=1)
        draw(arrange(described, Random(index), width=64, height=64)).save(file, "PNG")
    alone = [atelier.upscale.remote({"image": file.getvalue(), "scale": 2}).result(timeout_s=60) for file in files]
    asked = [atelier.upscale.remote({"image": file.getvalue(), "scale": 2}) for file in files]
    for first, response in zip(alone, asked, strict=True):
        second = response.result(timeout_s=60)
        images = [_pixels(Image.open(io.BytesIO(one["image"]))) for one in (first, second)]
        assert images[0].shape == (128, 128, 3)
        assert np.abs(images[0] - images[1]).max() <= 1
        assert (first["media_type"], first["upscaler"], first["size"]) == ("image/png", "tiny-x4", "128x128")


def test_answer_names_the_upscaler(address: str) -> None:
    assert address
    atelier = serve.get_app_handle("atelier")
    asked = {"prompt": "x", "size": "64x64", "num_inference_steps": 1, "seed": 1}
    requests: list[dict[str, object]] = [asked, {**asked, "upscale": {}}]
    answers = [atelier.generate.remote(request).result(timeout_s=60) for request in requests]
    assert [answer["upscaler"] for answer in answers] == [None, "tiny-x4"]


def test_upscaled_image_is_stored_behind_its_url(address: str) -> None:
    atelier = serve.get_app_handle("atelier")
    file = io.BytesIO()
    Image.new("RGB", (16, 24), "orange").save(file, "PNG")
    asked = {"image": file.getvalue(), "scale": 2, "response_format": "url", "output_format": "webp"}
    answer = atelier.upscale.remote(asked).result(timeout_s=60)
    assert "image" not in answer
    stored = httpx2.get(address + answer["url"])
    assert (stored.status_code, stored.headers["content-type"]) == (200, answer["media_type"])
    assert Image.open(io.BytesIO(stored.content)).size == (32, 48)


def test_a_generated_image_is_stored_behind_its_url(address: str) -> None:
    atelier = serve.get_app_handle("atelier")
    asked = {"prompt": "x", "size": "64x64", "num_inference_steps": 1, "response_format": "url"}
    [image] = atelier.generate.remote(asked).result(timeout_s=60)["images"]
    assert "image" not in image
    assert httpx2.get(address + image["url"]).headers["content-type"] == image["media_type"]


def test_autoencoder_encodes_and_decodes_by_handle(address: str) -> None:
    """Other applications may call the Autoencoder directly."""
    assert address
    autoencoder = serve.get_deployment_handle("Autoencoder", "atelier")
    grey = np.full((1, 64, 96, 3), 245, dtype=np.uint8)
    encoded = autoencoder.encode_latents.remote("tiny-sdxl", grey).result(timeout_s=60)
    assert encoded.mean.shape == encoded.std.shape == (1, 4, 8, 12)
    again = autoencoder.decode_latents.remote("tiny-sdxl", encoded.mean).result(timeout_s=60)
    assert np.abs(again.pixels.astype(int) - grey).mean() < 5
