"""The official client, sync and async, with the graph: one table of every method and parameter of its images API."""

from __future__ import annotations

import base64
import inspect
import io
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from PIL import Image

Answer = Any  # the return value of a client's method; a list of events if it streams
Method = str

#: Parameters of every method that change how a request is sent, not its content.
_TRANSPORT_PARAMETERS = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
_QUICK = {"num_inference_steps": 2, "seed": 3}
_METHODS = ("generate", "edit", "create_variation")

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


@dataclass(frozen=True)
class Case:
    """One call of the client, and its expected answer."""

    method: Method
    fields: dict[str, Any]
    #: A check of the answer, or the code of the expected error, whose `param` must be the last key of `fields`.
    expected: Callable[[Answer], bool] | str
    ours: dict[str, Any] | None = None

    def call(self, images: Any) -> Any:
        needed: dict[Method, dict[str, Any]] = {
            "generate": {"prompt": "a red circle", "size": "64x64"},
            "edit": {"prompt": "a red circle", "image": _image_file("white")},
            "create_variation": {"image": _image_file("white")},
        }
        ours = _QUICK if self.ours is None else self.ours
        return getattr(images, self.method)(**{**needed[self.method], **self.fields}, extra_body=ours)


def _image_file(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def _transparent() -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (64, 64)).save(file, "PNG")
    return file.getvalue()


def _files(answer: Answer) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(image.b64_json))) for image in answer.data]


def _sizes(answer: Answer) -> list[tuple[int, int]]:
    return [image.size for image in _files(answer)]


def _parameters(answer: Answer) -> dict[str, Any]:
    parameters: dict[str, Any] = answer.data[0].parameters
    return parameters


def _fetched(answer: Answer) -> Image.Image:
    with urllib.request.urlopen(answer.data[0].url) as file:
        return Image.open(io.BytesIO(file.read()))


def _types(events: Answer) -> list[str]:
    return [event.type.rpartition(".")[2] for event in events]


def _generate_and_edit_cases(method: Method) -> list[Case]:
    return [
        Case(method, {"prompt": "a blue star"}, lambda a: _parameters(a)["prompt"] == "a blue star"),
        Case(method, {"prompt": " "}, "invalid_value"),
        Case(method, {"background": "opaque"}, lambda a: a.background == "opaque"),
        Case(method, {"background": "auto"}, lambda a: a.background == "opaque"),
        Case(method, {"background": "transparent"}, "invalid_value"),
        Case(method, {"complexity": "low"}, "unsupported_value"),
        Case(method, {"output_format": "png", "frame_count": 3}, "unsupported_value"),
        Case(method, {"output_format": "png", "frame_duration_ms": 100}, "unsupported_value"),
        Case(method, {"svg": {"model": "x"}}, "unsupported_value"),
        Case(method, {"output_format": "gif"}, "unsupported_value"),
        Case(
            method, {"output_format": "jpeg"}, lambda a: _files(a)[0].format == "JPEG" and a.output_format == "jpeg"
        ),
        Case(method, {"output_format": "webp", "output_compression": 5}, lambda a: _files(a)[0].format == "WEBP"),
        Case(method, {"output_compression": 5}, "invalid_value"),
        Case(method, {"model": "tiny-sdxl"}, lambda a: _parameters(a)["model"] == "tiny-sdxl"),
        Case(method, {"model": "gpt-image-2"}, "model_not_found"),
        Case(method, {"n": 2}, lambda a: [image.seed for image in a.data] == [3, 4]),
        Case(method, {"n": 11}, "invalid_value"),
        Case(
            method,
            {"quality": "low"},
            lambda a: a.quality == "low" and _parameters(a)["num_inference_steps"] == 10,
            {},
        ),
        Case(method, {"quality": "standard"}, lambda a: a.quality == "medium"),
        Case(method, {"quality": "fine"}, "invalid_value"),
        Case(
            method, {"response_format": "url"}, lambda a: _fetched(a).size == (64, 64) and a.data[0].b64_json is None
        ),
        Case(method, {"response_format": "b64_json"}, lambda a: _sizes(a) == [(64, 64)] and a.data[0].url is None),
        Case(method, {"safety_identifier": "someone"}, lambda a: a.safety_identifier == "someone"),
        Case(method, {"user": "someone"}, lambda a: a.safety_identifier == "someone"),
        Case(method, {"size": "96x64"}, lambda a: _sizes(a) == [(96, 64)] and a.size == "96x64"),
        Case(method, {"size": "1024x1024"}, "invalid_value"),
        Case(method, {"stream": False}, lambda a: _sizes(a) == [(64, 64)]),
        Case(method, {"stream": True}, lambda events: _types(events) == ["completed"]),
        Case(
            method,
            {"stream": True, "partial_images": 3},
            lambda events: _types(events) in [["partial_image"] * count + ["completed"] for count in (1, 2, 3)],
            {"num_inference_steps": 100},
        ),
        Case(method, {"partial_images": 1}, "invalid_value"),
    ]


_CASES = [
    *_generate_and_edit_cases("generate"),
    Case("generate", {"size": "auto"}, lambda a: _sizes(a) == [(128, 128)]),
    Case(
        "generate",
        {"quality": "hd"},
        lambda a: a.quality == "high" and _parameters(a)["num_inference_steps"] == 30,
        {},
    ),
    Case("generate", {"moderation": "low"}, lambda a: len(a.data) == 1),
    Case("generate", {"moderation": "high"}, "invalid_value"),
    Case("generate", {"style": "vivid"}, lambda a: _parameters(a)["guidance_scale"] == 7),
    Case("generate", {"style": "loud"}, "invalid_value"),
    *_generate_and_edit_cases("edit"),
    Case("edit", {"size": "auto", "image": _image_file("white", (96, 64))}, lambda a: _sizes(a) == [(96, 64)]),
    Case("edit", {"image": [_image_file("white")]}, lambda a: _sizes(a) == [(64, 64)]),
    Case("edit", {"image": [_image_file("white"), _image_file("red")]}, "not_supported"),
    Case("edit", {"image": b"no picture"}, "invalid_value"),
    Case("edit", {"mask": _image_file("black")}, lambda a: _files(a)[0].getcolors() == [(64 * 64, (255, 255, 255))]),
    Case("edit", {"mask": _image_file("white", (32, 32))}, "invalid_value"),
    Case("edit", {"markup": _transparent()}, lambda a: _sizes(a) == [(64, 64)]),
    Case("edit", {"markup": _image_file("white")}, "invalid_value"),
    Case("edit", {"input_fidelity": "high"}, lambda a: _parameters(a)["strength"] == 0.5),
    Case("edit", {"input_fidelity": "low"}, lambda a: _parameters(a)["strength"] == 0.8),
    Case("create_variation", {"image": _image_file("red")}, lambda a: _parameters(a)["strength"] == 0.6),
    Case("create_variation", {"model": "tiny-sdxl"}, lambda a: _parameters(a)["model"] == "tiny-sdxl"),
    Case("create_variation", {"n": 2}, lambda a: len(a.data) == 2),
    Case("create_variation", {"response_format": "url"}, lambda a: _fetched(a).size == (64, 64)),
    Case("create_variation", {"size": "96x64"}, lambda a: _sizes(a) == [(96, 64)]),
    Case("create_variation", {"size": "256x512"}, "invalid_value"),
    Case("create_variation", {"user": "someone"}, lambda a: a.safety_identifier == "someone"),
]


@pytest.mark.parametrize("method", _METHODS)
def test_the_table_has_every_parameter_of_the_client(method: Method) -> None:
    known = set(inspect.signature(getattr(openai.resources.images.Images, method)).parameters) - _TRANSPORT_PARAMETERS
    assert {name for case in _CASES if case.method == method for name in case.fields} == known
    public = {name for name in vars(openai.resources.images.Images) if not name.startswith("_")}
    assert public - {"with_raw_response", "with_streaming_response"} == set(_METHODS)


def _named(case: Case) -> str:
    fields = {name: "…" if isinstance(value, (bytes, list)) else value for name, value in case.fields.items()}
    return f"{case.method} {fields}"


@pytest.mark.parametrize("case", _CASES, ids=_named)
def test_the_sync_client(address: str, case: Case) -> None:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        if isinstance(case.expected, str):
            with pytest.raises(openai.APIStatusError) as caught:
                case.call(client.images)
            _check_refusal(case, caught.value)
        else:
            answer = case.call(client.images)
            assert case.expected(list(answer) if case.fields.get("stream") else answer)


@pytest.mark.parametrize("case", _CASES, ids=_named)
async def test_the_async_client(address: str, case: Case) -> None:
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        if isinstance(case.expected, str):
            with pytest.raises(openai.APIStatusError) as caught:
                await case.call(client.images)
            _check_refusal(case, caught.value)
        else:
            answer = await case.call(client.images)
            assert case.expected([event async for event in answer] if case.fields.get("stream") else answer)


def _check_refusal(case: Case, error: openai.APIStatusError) -> None:
    assert error.code == case.expected
    assert error.param == list(case.fields)[-1]
    assert error.request_id is not None
