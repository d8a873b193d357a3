"""A quick version of the scores of the zoo's LoRAs, over 8 captions instead of 16, and their files."""

from __future__ import annotations

import json

import pytest
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors import safe_open

from zoo import report
from zoo.lora_recipes import RECIPES
from zoo.lora_report import PAIRS, LoraScores, draw_with_loras, judged_descriptions, load_loras, lora_scores
from zoo.styles import STYLES, Style

# peft's, for several LoRAs in one model
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

_DESCRIPTIONS = judged_descriptions(8)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    pipeline = report.load_pipeline()
    load_loras(pipeline)
    return pipeline


def _scores(
    pipeline: StableDiffusionXLPipeline, *styles: Style, weight: float = 1.0, trigger: bool = True
) -> LoraScores:
    images = draw_with_loras(pipeline, _DESCRIPTIONS, dict.fromkeys(styles, weight), trigger=trigger)
    return lora_scores(images, _DESCRIPTIONS, styles)


@pytest.mark.long
@pytest.mark.parametrize("style", STYLES)
def test_style_grows_with_the_weight_of_its_lora(pipeline: StableDiffusionXLPipeline, style: Style) -> None:
    without, half, whole = (_scores(pipeline, style, weight=weight).styles[style] for weight in (0.0, 0.5, 1.0))
    assert without <= 0.1
    assert without <= half <= whole
    assert whole >= without + 0.4


@pytest.mark.long
@pytest.mark.parametrize("style", [recipe.style for recipe in RECIPES.values() if recipe.trigger])
def test_style_with_trigger_words_needs_them(pipeline: StableDiffusionXLPipeline, style: Style) -> None:
    with_trigger, without = (_scores(pipeline, style, trigger=trigger).styles[style] for trigger in (True, False))
    assert without <= with_trigger / 2


@pytest.mark.parametrize("styles", PAIRS, ids="+".join)
def test_two_loras_show_both_styles(pipeline: StableDiffusionXLPipeline, styles: tuple[Style, Style]) -> None:
    scores = _scores(pipeline, *styles).styles
    assert min(scores.values()) >= 0.25


@pytest.mark.parametrize("style", STYLES)
def test_a_lora_has_a_small_file_with_an_entry_and_a_preview(style: Style) -> None:
    recipe = RECIPES[style]
    entry = json.loads(recipe.file.with_suffix(".json").read_text())
    assert entry["description"] == recipe.description
    assert entry["trigger_words"] == ([recipe.trigger] if recipe.trigger else [])
    assert (entry["base"], entry["weight"], entry["licence"]) == ("tiny-sdxl", 1.0, "Apache-2.0")
    with Image.open(recipe.folder / entry["preview"]) as preview:
        assert preview.size == (128, 128)
    assert recipe.file.stat().st_size < 1_500_000
    with safe_open(recipe.file, "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118
