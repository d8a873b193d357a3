"""OpenAI's words for our fields: aliases, streams, formats and qualities."""

from __future__ import annotations

import pytest

from atelier.api.openai.schemas import ImagesGenerateRequest, ImagesParams
from atelier.api.openai.translate import generate_params, parse_openai
from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import InvalidParameter, NotSupported, UnsupportedValue
from atelier.core.params import GenerateParams


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
