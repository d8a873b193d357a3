"""Applications of others: one whose environment has no `atelier`, and those that take parts of our graph."""

from __future__ import annotations

import io
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from atelier.core.conditioning import Prompts, Text
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from graph import build_denoiser
from tests.hidden import HIDE_ATELIER
from zoo.judge import judge
from zoo.scenes import Description, Thing

_RED_CIRCLE = Description(things=(Thing(colour="red", shape="circle"),), background="white")
_PROMPT = "a red circle, white background"


@contextmanager
def _running(app: serve.Application, name: str) -> Iterator[DeploymentHandle]:
    """Run an application for the time of the context."""
    try:
        yield serve.run(app, name=name, route_prefix=f"/{name}")
    finally:
        serve.delete(name)


def _postcards(folder: Path) -> serve.Application:
    """An application whose replica cannot import `atelier`.

    Its class is local, so that Ray sends it by value: the replica cannot import this module either.
    """
    (folder / "sitecustomize.py").write_text(HIDE_ATELIER)

    class Postcards:
        async def has_atelier(self) -> bool:
            try:
                import atelier  # noqa: F401
            except ModuleNotFoundError:
                return False
            return True

        async def call(self, method: str, params: object) -> object:
            """Return the answer of a method of the graph, or the fields of its error."""
            try:
                return await getattr(serve.get_app_handle("atelier"), method).remote(params)
            except RuntimeError as error:
                return self._fields(error)

        async def last_event(self, params: object) -> object:
            """Return the last event of a stream, or the fields of the stream's error."""
            last = None
            try:
                async for event in serve.get_app_handle("atelier").options(stream=True).stream.remote(params):
                    last = event
            except RuntimeError as error:
                return self._fields(error)
            return last

        async def __call__(self, request: Request) -> object:
            answer = await serve.get_app_handle("atelier").generate.remote(await request.json())
            return answer["request_id"]

        def _fields(self, error: Any) -> dict[str, object]:
            names = ("status", "type", "code", "param", "message", "is_retryable")
            return {name: getattr(error, name) for name in names}

    environment = {"env_vars": {"PYTHONPATH": str(folder)}}
    return serve.deployment(Postcards, ray_actor_options={"num_cpus": 0.1, "runtime_env": environment}).bind()


def _broken_fields() -> object:
    """A mapping that nothing can read."""

    class Broken(UserDict[str, object]):
        def __iter__(self) -> Iterator[str]:
            raise ZeroDivisionError

    return Broken()


@pytest.fixture(scope="module")
def postcards(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeploymentHandle]:
    assert address
    with _running(_postcards(tmp_path_factory.mktemp("postcards")), "postcards") as handle:
        assert handle.has_atelier.remote().result(timeout_s=60) is False
        yield handle


@pytest.mark.parametrize(
    ("method", "params", "status", "code", "param", "message"),
    [
        ("generate", {"prompt": "x", "n": 0}, 400, "invalid_value", "n", "got 0"),
        ("generate", {"prompt": "x", "clip_skip": 1}, 501, "not_supported", "clip_skip", "not supported"),
        ("generate", {"prompt": "x", "model": "none"}, 404, "model_not_found", "model", "none"),
        ("generate", {"prompt": "x", "num_inference_steps": 150, "deadline_s": 0.05}, 504, "deadline_exceeded",
         "deadline_s", "0.05"),
        ("generate", "a star", 400, "invalid_body", None, "got str"),
        ("edit", {"prompt": "x", "image": b"none"}, 400, "invalid_value", "image", "image"),
        ("variation", {}, 400, "invalid_value", "image", "required"),
        ("upscale", {"image": b"none"}, 400, "invalid_value", "image", "image"),
        ("annotate", {"image": b"none", "kind": "canny"}, 400, "invalid_value", "image", "image"),
        ("inspect", {"image": b"none"}, 400, "invalid_value", "image", "image"),
        ("inspect", {"picture": b""}, 400, "unknown_parameter", "picture", "picture"),
    ],
)  # fmt: skip
def test_an_app_without_atelier_reads_errors(
    postcards: DeploymentHandle,
    method: str,
    params: object,
    status: int,
    code: str,
    param: str | None,
    message: str,
) -> None:
    error = postcards.call.remote(method, params).result(timeout_s=60)
    assert (error["status"], error["code"], error["param"]) == (status, code, param)
    assert message in error["message"]
    assert error["is_retryable"] is False


def test_an_app_without_atelier_reads_errors_of_stages(postcards: DeploymentHandle) -> None:
    """The TextEncoder raises this one in a replica of its own."""
    error = postcards.call.remote("generate", {"prompt": "star " * 6000}).result(timeout_s=60)
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_value", "prompt")


@pytest.mark.parametrize("method", ["generate", "edit", "variation", "upscale", "annotate", "inspect"])
def test_an_app_without_atelier_reads_unforeseen_errors(postcards: DeploymentHandle, method: str) -> None:
    error = postcards.call.remote(method, _broken_fields()).result(timeout_s=60)
    assert (error["status"], error["code"], error["param"]) == (500, "internal_error", None)


def test_an_app_without_atelier_reads_errors_of_streams(postcards: DeploymentHandle) -> None:
    error = postcards.last_event.remote({"prompt": "x", "n": 0}).result(timeout_s=60)
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_value", "n")
    error = postcards.last_event.remote(_broken_fields()).result(timeout_s=60)
    assert (error["status"], error["code"], error["param"]) == (500, "internal_error", None)
    late = {"prompt": "x", "num_inference_steps": 150, "size": "256x256", "deadline_s": 0.5, "progress": True}
    error = postcards.last_event.remote(late).result(timeout_s=60)
    assert (error["status"], error["code"], error["param"]) == (504, "deadline_exceeded", "deadline_s")


def test_an_app_without_atelier_reads_answers(postcards: DeploymentHandle) -> None:
    asked = {"prompt": _PROMPT, "seed": 3}
    for answer in (
        postcards.call.remote("generate", asked).result(timeout_s=60),
        postcards.last_event.remote(asked).result(timeout_s=60),
    ):
        [image] = answer["images"]
        assert (image["seed"], image["media_type"], answer["size"]) == (3, "image/png", "128x128")
        assert judge(Image.open(io.BytesIO(image["image"])), _RED_CIRCLE).is_right


def test_a_call_has_the_request_id_of_its_caller(postcards: DeploymentHandle, address: str) -> None:
    assert postcards
    asked = {"prompt": "x", "size": "64x64", "num_inference_steps": 1}
    headers = {"x-request-id": "trip-7"}
    assert httpx2.post(f"{address}/postcards", json=asked, headers=headers, timeout=60).text == "trip-7"


@pytest.mark.long
def test_a_graph_of_others_binds_the_denoiser(address: str) -> None:
    assert address

    class Studio:
        def __init__(self, denoiser: DeploymentHandle) -> None:
            self._denoiser = denoiser

        async def latents(self, request: object) -> object:
            events = [event async for event in self._denoiser.options(stream=True).denoise.remote(request)]
            return events[-1].latents

    text = Text(_PROMPT, _PROMPT)
    encode_texts = serve.get_deployment_handle("TextEncoder", "atelier").encode_texts
    encoded = encode_texts.remote("tiny-sdxl", Prompts(positive=text, negative=None), "fast").result(timeout_s=60)
    request = DenoiseRequest(
        request_id=RequestId("studio"),
        pass_=Pass(
            model="tiny-sdxl",
            size=Size(width=128, height=128),
            seeds=(3,),
            sampling=Sampling(num_inference_steps=20),
            guidance_scale=1.0,
        ),
        conditioning=encoded.conditioning,
    )
    studio = serve.deployment(Studio, ray_actor_options={"num_cpus": 0.1})
    with _running(studio.bind(build_denoiser({"controlnets": []})), "studio") as handle:
        latents = handle.latents.remote(request).result(timeout_s=60)
    decode_latents = serve.get_deployment_handle("Autoencoder", "atelier").decode_latents
    [pixels] = decode_latents.remote("tiny-sdxl", latents).result(timeout_s=60).pixels
    assert judge(Image.fromarray(pixels), _RED_CIRCLE).is_right
