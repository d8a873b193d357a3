"""OpenAI's words for our fields: aliases, streams, formats and qualities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from atelier.api.openai.schemas import (
    ImagesEditRequest,
    ImagesGenerateRequest,
    ImagesParams,
    ImagesVariationRequest,
)
from atelier.api.openai.translate import (
    edit_params,
    errors_naming_images,
    generate_params,
    parse_openai,
    variation_params,
)
from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import InvalidParameter, ModelNotFound, NotSupported, UnsupportedValue
from atelier.core.params import GenerateParams, parse

_IMAGE, _MASK, _MARKUP = b"image", b"mask", b"markup"
_SENT_AS = {"init_image": "image", "mask_image": "mask", "markup_image": "markup"}


def _params(catalogue: Catalogue, **fields: object) -> GenerateParams:
    return generate_params(parse_openai(ImagesParams, {"prompt": "x", **fields}), catalogue)


def test_true_cfg_scale_is_another_name_of_guidance_scale() -> None:
    assert parse_openai(ImagesParams, {"prompt": "x", "true_cfg_scale": 3}).guidance_scale == 3
    with pytest.raises(InvalidParameter, match="differ"):
        parse_openai(ImagesParams, {"prompt": "x", "true_cfg_scale": 3, "guidance_scale": 4})


@pytest.mark.parametrize(("field", "harmless", "wanted"), [("stream", False, True), ("partial_images", 0, 2)])
def test_a_stream_is_refused_only_where_there_is_none(field: str, harmless: object, wanted: object) -> None:
    assert parse_openai(ImagesParams, {"prompt": "x", field: harmless}).prompt == "x"
    with pytest.raises(NotSupported) as caught:
        parse_openai(ImagesParams, {"prompt": "x", field: wanted})
    assert (caught.value.param, caught.value.status) == (field, 501)
    assert parse_openai(ImagesGenerateRequest, {"prompt": "x", "stream": True}).stream


@pytest.mark.parametrize("fields", [{"output_format": "gif"}, {"svg": {}}, {"frame_count": 4}, {"complexity": "low"}])
def test_formats_that_are_not_written_are_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        parse_openai(ImagesParams, {"prompt": "x", **fields})
    assert caught.value.param == next(iter(fields))


@pytest.mark.parametrize(
    ("quality", "steps"),
    [
        ("low", 10),
        ("auto", 20),
        ("medium", 20),
        ("standard", 20),
        ("high", 30),
        ("hd", 30),
        ("xhigh", 40),
        ("max", 60),
    ],
)
def test_quality_sets_the_number_of_steps(catalogue: Catalogue, quality: str, steps: int) -> None:
    assert _params(catalogue, quality=quality).num_inference_steps == steps
    assert _params(catalogue, quality=quality, num_inference_steps=7).num_inference_steps == 7


def test_quality_asks_for_no_more_steps_than_the_sampler_takes(catalogue: Catalogue) -> None:
    assert _params(catalogue, quality="max", sampler="lcm").num_inference_steps == 50


@pytest.mark.parametrize(("style", "guidance"), [("vivid", 7.0), ("natural", 3.5), (None, None)])
def test_style_sets_the_guidance(catalogue: Catalogue, style: str | None, guidance: float | None) -> None:
    assert _params(catalogue, style=style).guidance_scale == guidance
    assert _params(catalogue, style=style, guidance_scale=2).guidance_scale == 2


@pytest.mark.parametrize(
    ("fields", "is_upscaled"),
    [({}, True), ({"size": "64x64"}, False), ({"hires": {}}, False), ({"quality": "high"}, False)],
)
def test_max_quality_upscales_where_nothing_decides_the_size(
    catalogue: Catalogue, fields: dict[str, object], is_upscaled: bool
) -> None:
    upscale = _params(catalogue, **{"quality": "max", **fields}).upscale
    assert (upscale is not None and upscale.scale == 2) == is_upscaled


@pytest.mark.parametrize(
    ("asked", "drawn", "hires", "upscale"),
    [
        ("1024x1024", "128x128", 2, 4),
        ("512x512", "128x128", None, 4),
        ("288x192", "144x96", None, 2),
        ("256x256", "256x256", None, None),
        ("auto", "auto", None, None),
        ("2048x2048", "2048x2048", None, None),
        ("1792x1024", "1792x1024", None, None),
        ("1023x1024", "1023x1024", None, None),
        ("1024x384", "1024x384", None, None),
    ],
)
def test_a_size_too_large_for_an_alias_is_drawn_smaller_and_enlarged(
    catalogue: Catalogue, asked: str, drawn: str, hires: int | None, upscale: int | None
) -> None:
    """Clients such as LangChain always send one of OpenAI's sizes with its model; other names mean what they say."""
    params = _params(catalogue, model="dall-e-2", size=asked)
    scales = (params.hires and params.hires.scale, params.upscale and params.upscale.scale)
    assert (params.size, scales) == (drawn, (hires, upscale))
    for fields in ({}, {"model": "tiny-sdxl"}):
        params = _params(catalogue, size=asked, **fields)
        assert (params.size, params.hires, params.upscale) == (asked, None, None)


def test_a_second_pass_stays_within_what_the_model_draws(catalogue: Catalogue) -> None:
    [entry] = catalogue.models
    smaller = entry.model_copy(update={"sides_px": entry.sides_px.model_copy(update={"max": 248})})
    params = _params(catalogue.model_copy(update={"models": (smaller,)}), model="dall-e-2", size="1024x1024")
    assert params.size == "1024x1024"


@pytest.mark.parametrize(
    "fields",
    [
        {"upscale": {"scale": 3}},
        {"hires": {"scale": 3}},
        {"init_image": _IMAGE},
        {"controls": [{"kind": "canny", "image": _IMAGE}]},
    ],
)
def test_only_prompts_alone_are_drawn_smaller(catalogue: Catalogue, fields: dict[str, object]) -> None:
    params = _params(catalogue, model="dall-e-2", size="1024x1024", **fields)
    assert params.size == "1024x1024"
    assert (params.hires is None) == ("hires" not in fields)
    assert (params.upscale is None) == ("upscale" not in fields)


def _edit(catalogue: Catalogue, **fields: object) -> GenerateParams:
    asked = parse_openai(ImagesEditRequest, {"prompt": "x", "image": [_IMAGE], **fields})
    return edit_params(asked, catalogue)


def test_every_field_of_a_generation_is_passed_on(small_catalogue: Catalogue) -> None:
    fields: dict[str, object] = {
        "prompt": "a",
        "model": "small-sdxl",
        "n": 2,
        "size": "64x32",
        "output_format": "webp",
        "output_compression": 50,
        "negative_prompt": "b",
        "prompt_2": "c",
        "negative_prompt_2": "d",
        "seed": 5,
        "num_inference_steps": 7,
        "guidance_scale": 3.0,
        "guidance_rescale": 0.5,
        "sampler": "ddim",
        "schedule": "trailing",
        "eta": 0.25,
        "init_image": _IMAGE,
        "mask_image": _MASK,
        "strength": 0.4,
        "reproducibility": "exact",
        "deadline_s": 9.0,
    }
    params = _params(small_catalogue, **fields, quality="low", style="vivid", background="opaque")
    assert type(params) is GenerateParams
    assert params == parse(GenerateParams, fields)


def test_nested_fields_are_passed_on(small_catalogue: Catalogue) -> None:
    controls = [{"kind": "canny", "image": _IMAGE}]
    fields: dict[str, object] = {"controls": controls, "hires": {"scale": 2}, "upscale": {"scale": 3}}
    params = _params(small_catalogue, **fields)
    assert params.controls == parse(GenerateParams, {"prompt": "x", "controls": controls}).controls
    assert params.hires is not None
    assert params.upscale is not None
    assert (params.hires.scale, params.upscale.scale) == (2, 3)


def test_an_unknown_model_is_not_found(small_catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound):
        _params(small_catalogue, model="dall-e-9")


def test_quality_without_a_word_is_the_models_default(small_catalogue: Catalogue) -> None:
    params = _params(small_catalogue)
    assert (params.num_inference_steps, params.guidance_scale, params.upscale) == (4, None, None)


def test_max_quality_leaves_the_size_to_an_input_image(catalogue: Catalogue) -> None:
    assert _params(catalogue, quality="max", init_image=_IMAGE).upscale is None
    assert _params(catalogue, quality="max", controls=[{"kind": "canny", "image": _IMAGE}]).upscale is None
    assert _edit(catalogue, quality="max").upscale is None


def test_max_quality_keeps_an_upscale_that_was_sent(catalogue: Catalogue) -> None:
    upscale = _params(catalogue, quality="max", upscale={"scale": 3}).upscale
    assert upscale is not None
    assert upscale.scale == 3


def test_null_is_absent_in_openais_fields_too() -> None:
    fields = {"true_cfg_scale": None, "svg": None, "stream": None, "output_format": None, "frame_count": None}
    assert parse_openai(ImagesParams, {"prompt": "x", **fields}).output_format == "png"


def test_true_cfg_scale_may_be_sent_beside_an_equal_guidance_scale() -> None:
    fields = {"prompt": "x", "true_cfg_scale": 3, "guidance_scale": 3}
    assert parse_openai(ImagesParams, fields).guidance_scale == 3
    with pytest.raises(InvalidParameter) as caught:
        parse_openai(ImagesParams, {**fields, "guidance_scale": 4})
    assert caught.value.param == "true_cfg_scale"


@pytest.mark.parametrize("file_format", ["gif", "svg"])
def test_a_format_that_is_not_written_is_answered_with_those_that_are(file_format: str) -> None:
    with pytest.raises(UnsupportedValue, match="allowed: png, jpeg, webp"):
        parse_openai(ImagesParams, {"prompt": "x", "output_format": file_format})
    with pytest.raises(UnsupportedValue, match="frame_duration_ms belongs to gif files"):
        parse_openai(ImagesParams, {"prompt": "x", "frame_duration_ms": 5})
    with pytest.raises(UnsupportedValue, match="complexity belongs to svg files"):
        parse_openai(ImagesParams, {"prompt": "x", "complexity": "low"})


@pytest.mark.parametrize("names", [("mask", "markup"), ("mask_image", "markup_image")])
def test_images_of_an_edit_may_have_openais_names_or_ours(small_catalogue: Catalogue, names: tuple[str, str]) -> None:
    mask, markup = names
    params = _edit(small_catalogue, **{mask: _MASK, markup: _MARKUP})
    assert (params.init_image, params.mask_image, params.markup_image) == (_IMAGE, _MASK, _MARKUP)


@pytest.mark.parametrize(("theirs", "ours"), [("mask", "mask_image"), ("markup", "markup_image")])
def test_an_image_under_two_names_is_refused(small_catalogue: Catalogue, theirs: str, ours: str) -> None:
    with pytest.raises(InvalidParameter, match=f"{theirs}: {ours} is the same") as caught:
        _edit(small_catalogue, **{theirs: b"", ours: b""})
    assert caught.value.param == theirs


@pytest.mark.parametrize(
    ("fields", "strength"),
    [
        ({}, None),
        ({"input_fidelity": "low"}, None),
        ({"input_fidelity": "high"}, 0.5),
        ({"strength": 0.7}, 0.7),
        ({"strength": 0.7, "input_fidelity": "high"}, 0.7),
    ],
)
def test_high_fidelity_is_half_the_strength(
    small_catalogue: Catalogue, fields: dict[str, object], strength: float | None
) -> None:
    assert _edit(small_catalogue, **fields).strength == strength


def test_an_edit_takes_one_image_so_far(small_catalogue: Catalogue) -> None:
    with pytest.raises(NotSupported) as caught:
        _edit(small_catalogue, image=[_IMAGE, _IMAGE])
    assert caught.value.param == "image"


def test_a_variation_starts_from_its_image(small_catalogue: Catalogue) -> None:
    params = variation_params(parse_openai(ImagesVariationRequest, {"image": [_IMAGE]}), small_catalogue)
    assert (params.init_image, params.strength, params.prompt) == (_IMAGE, 0.6, "")


@pytest.mark.parametrize(("kind", "translate"), [("edit", edit_params), ("variation", variation_params)])
def test_the_image_of_a_form_is_not_sent_under_our_name(
    small_catalogue: Catalogue, kind: str, translate: Callable[[Any, Catalogue], GenerateParams]
) -> None:
    asked = ImagesEditRequest if kind == "edit" else ImagesVariationRequest
    fields: dict[str, object] = {"prompt": "x", "image": [_IMAGE], "init_image": _IMAGE}
    with pytest.raises(InvalidParameter, match="send the image as image here") as caught:
        translate(parse_openai(asked, fields), small_catalogue)
    assert caught.value.param == "init_image"


@pytest.mark.parametrize(
    ("ours", "theirs"), [("init_image", "image"), ("mask_image", "mask"), ("markup_image", "markup")]
)
def test_errors_name_images_as_openai_does(ours: str, theirs: str) -> None:
    error = InvalidParameter(f"{ours}: must be as large as init_image, not mask_image.", param=ours)
    with pytest.raises(InvalidParameter) as caught, errors_naming_images(_SENT_AS):
        raise error
    assert caught.value.param == theirs
    assert str(caught.value) == f"{theirs}: must be as large as image, not mask."


@pytest.mark.parametrize("param", ["strength", "controls[0].image", None])
def test_errors_of_other_fields_stay_as_they_are(param: str | None) -> None:
    error = InvalidParameter("init_image", param=param)
    with pytest.raises(InvalidParameter) as caught, errors_naming_images(_SENT_AS):
        raise error
    assert caught.value is error
