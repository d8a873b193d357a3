from __future__ import annotations

import pytest

from atelier.api.openai.quality import MAX_QUALITY_UPSCALE, Quality, Style, guidance_of, resolved, steps_of
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry


def _entry(catalogue: Catalogue, **defaults: float | str) -> ModelEntry:
    entry = catalogue.models[0]
    return entry.model_copy(update={"defaults": entry.defaults.model_copy(update=defaults)})


@pytest.mark.parametrize(
    ("quality", "answered", "steps"),
    [
        ("auto", "medium", 20),
        ("low", "low", 10),
        ("medium", "medium", 20),
        ("standard", "medium", 20),
        ("high", "high", 30),
        ("hd", "high", 30),
        ("xhigh", "xhigh", 40),
        ("max", "max", 60),
    ],
)
def test_quality_is_a_number_of_steps(
    small_catalogue: Catalogue, quality: Quality, answered: str, steps: int
) -> None:
    entry = _entry(small_catalogue, num_inference_steps=20)
    assert resolved(quality) == answered
    assert steps_of(quality, entry, "euler") == steps


def test_quality_takes_at_least_a_step_and_no_more_than_the_sampler(small_catalogue: Catalogue) -> None:
    assert steps_of("low", _entry(small_catalogue, num_inference_steps=1), "euler") == 1
    assert steps_of("max", _entry(small_catalogue, num_inference_steps=100), "euler") == 150
    assert steps_of("max", _entry(small_catalogue, num_inference_steps=20), "lcm") == 50
    assert steps_of("max", _entry(small_catalogue, num_inference_steps=20, sampler="lcm"), None) == 50
    assert steps_of("max", _entry(small_catalogue, num_inference_steps=20, sampler="lcm"), "heun") == 60


@pytest.mark.parametrize(("style", "guidance"), [("vivid", 7.0), ("natural", 3.5)])
def test_style_is_a_guidance_scale(small_catalogue: Catalogue, style: Style, guidance: float) -> None:
    assert guidance_of(style, _entry(small_catalogue, guidance_scale=5.0)) == guidance


def test_a_styles_guidance_is_rounded_to_two_digits(small_catalogue: Catalogue) -> None:
    assert guidance_of("vivid", _entry(small_catalogue, guidance_scale=3.333)) == 4.67


def test_the_best_quality_doubles_the_size() -> None:
    assert (MAX_QUALITY_UPSCALE.scale, MAX_QUALITY_UPSCALE.model) == (2, None)
