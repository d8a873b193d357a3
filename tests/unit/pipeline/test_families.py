"""What a request means for a model of Stable Diffusion 1.5, and what is refused before any model is called."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import LoraEntry
from atelier.catalogue.loras import Loras
from atelier.core.conditioning import Prompts, Text
from atelier.core.errors import LoraNotFound, NotSupported
from atelier.core.params import GenerateParams, parse
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.resolve import Plan, resolve
from tests.pictures import encoded, noise
from tests.records import new_record
from tests.stages import RecordingStages

_OF_SDXL = Loras({"style": LoraEntry(id="style", description="", licence="MIT", file=Path("/style.safetensors"))})


def _plan(catalogue: Catalogue, **fields: object) -> Plan:
    params = parse(GenerateParams, {"prompt": "x", "model": "small-sd15", **fields})
    return resolve(params, InputSizes(), catalogue, max_pixel_steps=10_000_000, random=Random(0))


def test_an_absent_negative_prompt_is_an_empty_text(two_families: Catalogue) -> None:
    plan = _plan(two_families)
    assert plan.prompts == Prompts(positive=Text("x", "x"), negative=Text("", ""))
    assert plan.parameters(1)["negative_prompt"] == ""
    assert "negative_prompt_2" not in plan.parameters(1)
    assert _plan(two_families, guidance_scale=1).prompts.negative is None
    assert _plan(two_families, model="small-sdxl").prompts.negative is None


@pytest.mark.parametrize("field", ["prompt_2", "negative_prompt_2"])
def test_a_text_for_a_second_encoder_is_refused(two_families: Catalogue, field: str) -> None:
    with pytest.raises(NotSupported, match=f"{field}: small-sd15 has one text encoder") as caught:
        _plan(two_families, negative_prompt="a", **{field: "y"})
    assert caught.value.param == field


def test_a_second_text_that_repeats_the_first_is_accepted(two_families: Catalogue) -> None:
    plan = _plan(two_families, prompt_2="x", negative_prompt="a", negative_prompt_2="a")
    assert plan.prompts == Prompts(positive=Text("x", "x"), negative=Text("a", "a"))


def _with_lora(catalogue: Catalogue, lora: str) -> Plan:
    params = parse(GenerateParams, {"prompt": "x", "model": "small-sd15", "loras": [{"model": lora}]})
    return resolve(params, InputSizes(), catalogue, loras=_OF_SDXL, max_pixel_steps=10_000_000, random=Random(0))


def test_a_lora_of_sdxl_is_refused_and_an_unknown_one_not_found(two_families: Catalogue) -> None:
    with pytest.raises(NotSupported, match="small-sd15 does not support lora; it supports text_to_image") as caught:
        _with_lora(two_families, "style")
    assert caught.value.param == "loras[0].model"
    with pytest.raises(LoraNotFound):
        _with_lora(two_families, "other")


@pytest.mark.parametrize(
    ("fields", "num_previews", "message"),
    [
        (
            {"controls": [{"kind": "canny", "image": encoded(noise(64, 64))}]},
            0,
            "small-sd15 does not support control",
        ),
        ({}, 2, "small-sd15 does not support previews"),
    ],
)
async def test_what_a_model_cannot_do_is_refused_before_any_model_is_called(
    two_families: Catalogue, stages: RecordingStages, fields: dict[str, object], num_previews: int, message: str
) -> None:
    bare = tuple(model.model_copy(update={"latent_rgb": None}) for model in two_families.models)
    catalogue = two_families.model_copy(update={"models": bare, "controlnets": ()})
    pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=1_000_000))
    params = parse(GenerateParams, {"prompt": "x", "model": "small-sd15", **fields})
    with pytest.raises(NotSupported, match=message):
        await anext(pipeline.stream(new_record(), params, num_previews=num_previews))
    assert stages.calls == []
