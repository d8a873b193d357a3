from __future__ import annotations

import pytest

from atelier.api.openai.schemas import (
    ImagesEditRequest,
    ImagesGenerateRequest,
    ImagesParams,
    ImagesVariationRequest,
)
from atelier.core.errors import InvalidParameter
from atelier.core.params import Params, ResponseFormat, parse

_IMAGES = {"image": [b"x"]}


def _generate(**fields: object) -> ImagesGenerateRequest:
    return parse(ImagesGenerateRequest, {"prompt": "x", **fields})


def test_defaults_are_openais() -> None:
    asked = _generate()
    assert (asked.quality, asked.style, asked.background, asked.moderation) == ("auto", None, "auto", "auto")
    assert (asked.delivered_as(), asked.stream, asked.partial_images, asked.progress) == (
        "b64_json",
        False,
        0,
        False,
    )
    assert asked.label is None


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("quality", ("auto", "low", "medium", "standard", "high", "hd", "xhigh", "max"), ("best",)),
        ("style", ("vivid", "natural"), ("loud",)),
        ("background", ("auto", "opaque"), ("transparent",)),
        ("moderation", ("auto", "low"), ("high",)),
        ("response_format", ("b64_json", "url", "file"), ("png",)),
        ("partial_images", (0, 3), (-1, 4)),
        ("user", ("", "x" * 512), ("x" * 513,)),
        ("safety_identifier", ("", "x" * 512), ("x" * 513,)),
    ],
)
def test_fields_take_openais_values(field: str, good: tuple[object, ...], bad: tuple[object, ...]) -> None:
    for value in good:
        stream = {"stream": True} if field == "partial_images" else {}
        assert getattr(_generate(**{field: value}, **stream), field) == value
    for value in bad:
        with pytest.raises(InvalidParameter) as caught:
            _generate(**{"stream": field == "partial_images", field: value})
        assert caught.value.param == field


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"user": "a"}, "a"),
        ({"safety_identifier": "b", "user": "a"}, "b"),
        ({"safety_identifier": "", "user": "a"}, "a"),
        ({"user": ""}, None),
    ],
)
def test_a_safety_identifier_comes_before_a_user(fields: dict[str, object], label: str | None) -> None:
    assert _generate(**fields).label == label


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"partial_images": 1}, "partial_images", "partial_images: needs stream: true"),
        ({"progress": True}, "progress", "progress: needs stream: true"),
        ({"stream": True, "response_format": "url"}, "response_format", "a stream carries b64_json, not url"),
        ({"stream": True, "response_format": "file"}, "response_format", "a stream carries b64_json, not file"),
    ],
)
def test_only_a_stream_has_events_and_it_has_no_urls(fields: dict[str, object], param: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        _generate(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields", [{"stream": True, "partial_images": 3, "progress": True}, {"response_format": "url"}]
)
def test_what_goes_together_is_taken(fields: dict[str, object]) -> None:
    assert _generate(**fields).prompt == "x"


@pytest.mark.parametrize(("kind", "most"), [(ImagesEditRequest, 16), (ImagesVariationRequest, 1)])
def test_forms_have_a_number_of_images(kind: type[Params], most: int) -> None:
    assert parse(kind, {"prompt": "x", "image": [b"x"] * most})
    for number in (0, most + 1):
        with pytest.raises(InvalidParameter) as caught:
            parse(kind, {"prompt": "x", "image": [b"x"] * number})
        assert caught.value.param == "image"
    with pytest.raises(InvalidParameter, match="image is required"):
        parse(kind, {"prompt": "x"})


def test_only_a_variation_goes_without_a_prompt() -> None:
    assert parse(ImagesVariationRequest, _IMAGES).prompt == ""
    for kind in (ImagesGenerateRequest, ImagesEditRequest):
        images = _IMAGES if kind is ImagesEditRequest else {}
        with pytest.raises(InvalidParameter, match="prompt is required"):
            parse(kind, images)
        with pytest.raises(InvalidParameter, match="white space"):
            parse(kind, {**images, "prompt": " "})


def test_a_variation_departs_by_six_tenths_by_default() -> None:
    assert parse(ImagesVariationRequest, _IMAGES).strength == 0.6
    assert parse(ImagesVariationRequest, {**_IMAGES, "strength": 1}).strength == 1
    for strength in (0, 1.1):
        with pytest.raises(InvalidParameter):
            parse(ImagesVariationRequest, {**_IMAGES, "strength": strength})


def test_the_fidelity_of_an_edit_is_high_or_low() -> None:
    asked = parse(ImagesEditRequest, {"prompt": "x", **_IMAGES})
    assert (asked.input_fidelity, asked.mask, asked.markup, asked.strength) == (None, None, None, None)
    with pytest.raises(InvalidParameter):
        parse(ImagesEditRequest, {"prompt": "x", **_IMAGES, "input_fidelity": "medium"})


@pytest.mark.parametrize(
    ("fields", "default", "expected"),
    [
        ({}, None, "b64_json"),
        ({}, "url", "url"),
        ({"model": "dall-e-3"}, None, "url"),
        ({"model": "dall-e-3"}, "b64_json", "b64_json"),
        ({"response_format": "b64_json"}, "url", "b64_json"),
        ({"response_format": "file"}, "url", "file"),
        ({"stream": True}, "url", "b64_json"),
        ({"stream": True, "model": "dall-e-3"}, None, "b64_json"),
    ],
)
def test_a_client_then_the_server_then_openai_decides_how_images_are_returned(
    fields: dict[str, object], default: ResponseFormat | None, expected: str
) -> None:
    assert _generate(**fields).delivered_as(default) == expected


def test_fields_of_forms_and_streams_are_no_fields_of_a_generation() -> None:
    assert not {"stream", "response_format", "user", "image"} & ImagesParams.model_fields.keys()
