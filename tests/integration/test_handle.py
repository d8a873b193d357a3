"""Calls of the graph by handle, from another Serve application."""

from __future__ import annotations

import io
from random import Random

import httpx2
import numpy as np
import pytest
from PIL import Image
from ray import serve
from ray.serve.handle import DeploymentHandle

from atelier.core.errors import InvalidParameter, NotSupported
from zoo.judge import judge
from zoo.scenes import Description, Thing, arrange, draw, random_description


def _another_app() -> DeploymentHandle:
    """Run a second application, whose deployment requests an image from the graph."""

    class Postcards:
        async def make(self, prompt: str) -> dict[str, object]:
            atelier = serve.get_app_handle("atelier")
            answer: dict[str, object] = await atelier.generate.remote({"prompt": prompt, "seed": 3})
            return answer

    postcards = serve.deployment(Postcards, ray_actor_options={"num_cpus": 0.1})
    return serve.run(postcards.bind(), name="postcards", route_prefix="/postcards")


def test_another_app_generates_an_image(address: str) -> None:
    assert address
    answer = _another_app().make.remote("a green star, black background").result(timeout_s=60)
    [image] = answer["images"]
    assert (image["seed"], image["media_type"]) == (3, "image/png")
    asked = Description(things=(Thing(colour="green", shape="star"),), background="black")
    assert judge(Image.open(io.BytesIO(image["image"])), asked).is_right
    serve.delete("postcards")


def test_errors_keep_their_types(address: str) -> None:
    assert address
    atelier = serve.get_app_handle("atelier")
    with pytest.raises(InvalidParameter) as caught:
        atelier.generate.remote({"prompt": "x", "n": 0}).result(timeout_s=60)
    assert "got 0" in str(caught.value)
    assert caught.value.cause.param == "n"  # type: ignore[attr-defined]
    with pytest.raises(NotSupported):
        atelier.generate.remote({"prompt": "x", "clip_skip": 1}).result(timeout_s=60)


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
        images = [np.asarray(Image.open(io.BytesIO(one["image"])), dtype=int) for one in (first, second)]
        assert images[0].shape == (128, 128, 3)
        assert np.abs(images[0] - images[1]).max() <= 1
        assert (first["media_type"], first["upscaler"]) == ("image/png", "tiny-x4")


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


def test_autoencoder_encodes_and_decodes_by_handle(address: str) -> None:
    """Other applications may call the Autoencoder directly."""
    assert address
    autoencoder = serve.get_deployment_handle("Autoencoder", "atelier")
    grey = np.full((1, 64, 96, 3), 245, dtype=np.uint8)
    encoded = autoencoder.encode_latents.remote("tiny-sdxl", grey).result(timeout_s=60)
    assert encoded.mean.shape == encoded.std.shape == (1, 4, 8, 12)
    again = autoencoder.decode_latents.remote("tiny-sdxl", encoded.mean).result(timeout_s=60)
    assert np.abs(again.pixels.astype(int) - grey).mean() < 5
