"""The params of handle calls."""

from __future__ import annotations

import base64

import pytest

from atelier.api.openai.schemas import ImagesEditRequest, ImagesGenerateRequest, ImagesVariationRequest
from atelier.core.errors import InvalidParameter, InvalidRequest, MalformedBody
from atelier.core.params import (
    AnnotateParams,
    ControlParams,
    GenerateParams,
    HiresStep,
    UpscaleParams,
    UpscaleStep,
)
from deployments.calls import read_images_params, read_params, read_stream_params

_FILE = b"a file"


def test_params_are_read_from_a_mapping_and_from_an_object_alike() -> None:
    fields = {"image": _FILE, "kind": "canny", "low_threshold": 50}
    params = AnnotateParams(image=_FILE, kind="canny", low_threshold=50)
    assert read_params(AnnotateParams, fields) == read_params(AnnotateParams, params) == params


def test_every_field_of_an_object_is_read() -> None:
    params = GenerateParams(
        prompt="a star",
        n=2,
        size="64x64",
        seed=3,
        init_image=_FILE,
        strength=0.5,
        controls=(ControlParams(kind="canny", image=_FILE, annotate=True, low_threshold=50),),
        hires=HiresStep(scale=1.5),
        upscale=UpscaleStep(scale=2),
        deadline_s=5.0,
    )
    read = read_images_params(ImagesGenerateRequest, params)
    assert {name: getattr(read, name) for name in GenerateParams.model_fields} == dict(params)


@pytest.mark.parametrize("image", [_FILE, [_FILE], base64.b64encode(_FILE).decode()])
def test_one_image_needs_no_list(image: object) -> None:
    fields = {"prompt": "a star", "image": image}
    assert read_images_params(ImagesEditRequest, fields).image == [_FILE]
    assert read_images_params(ImagesVariationRequest, fields).image == [_FILE]


def test_a_stream_has_a_method_of_its_own() -> None:
    with pytest.raises(InvalidParameter, match="`stream`") as caught:
        read_images_params(ImagesGenerateRequest, {"prompt": "a star", "stream": True})
    assert caught.value.param == "stream"
    asked = read_stream_params({"prompt": "a star", "partial_images": 2, "progress": True})
    assert (asked.partial_images, asked.progress) == (2, True)


@pytest.mark.parametrize("sent", ["a star", None, [("prompt", "a star")]])
def test_other_values_are_rejected(sent: object) -> None:
    with pytest.raises(MalformedBody, match=type(sent).__name__):
        read_params(GenerateParams, sent)  # type: ignore[arg-type]


def test_params_of_another_operation_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match="image"):
        read_params(UpscaleParams, GenerateParams(prompt="a star"))
