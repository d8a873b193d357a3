"""What a request means for a model that edits by instructions, and what is refused before any model is called."""

from __future__ import annotations

import pytest
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import AtelierError, InvalidParameter, NotSupported
from atelier.core.params import GenerateParams, parse
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.resolve import Plan
from tests.pictures import encoded, noise
from tests.records import new_record
from tests.stages import RecordingStages

_IMAGE = encoded(noise(64, 72))


@pytest.fixture
def pipeline(edit_catalogue: Catalogue, stages: RecordingStages) -> Pipeline:
    return Pipeline(stages, edit_catalogue, PipelineLimits(max_pixel_steps=1_000_000))


async def _plan(pipeline: Pipeline, **fields: object) -> Plan:
    asked = {"prompt": "a blue background", "model": "small-sdxl-edit", "init_image": _IMAGE, **fields}
    return await pipeline.plan(parse(GenerateParams, {name: one for name, one in asked.items() if one is not None}))


async def test_an_edit_takes_all_steps_and_the_models_image_guidance(pipeline: Pipeline) -> None:
    plan = await _plan(pipeline, num_inference_steps=10)
    [only] = plan.passes
    assert (only.image_guidance_scale, only.sampling.num_taken_steps, str(only.size)) == (1.5, 10, "64x72")
    assert (plan.parameters(1)["image_guidance_scale"], plan.params.strength) == (1.5, None)
    assert (await _plan(pipeline, image_guidance_scale=3)).passes[0].image_guidance_scale == 3


async def test_other_models_have_none(pipeline: Pipeline) -> None:
    plan = await _plan(pipeline, model="small-sdxl")
    assert plan.passes[0].image_guidance_scale is None
    assert "image_guidance_scale" not in plan.parameters(1)


@pytest.mark.parametrize(
    ("fields", "kind", "param", "message"),
    [
        ({"init_image": None}, NotSupported, "prompt", "does not support text_to_image; it supports edit"),
        ({"prompt": " "}, NotSupported, "init_image", "does not support image_to_image; it supports edit"),
        ({"mask_image": _IMAGE}, NotSupported, "mask_image", "does not support inpaint"),
        ({"hires": {"scale": 2}}, NotSupported, "hires", "does not support image_to_image"),
        ({"controls": [{"kind": "canny", "image": _IMAGE}]}, NotSupported, "controls[0]", "not support control"),
        ({"strength": 0.5}, InvalidParameter, "strength", "edits by instructions; send image_guidance_scale"),
        ({"image_guidance_scale": 0.9}, InvalidParameter, "image_guidance_scale", "greater than or equal to 1"),
        (
            {"model": "small-sdxl", "image_guidance_scale": 2},
            InvalidParameter,
            "image_guidance_scale",
            "small-sdxl does not edit by instructions; send a lower strength",
        ),
    ],
)
async def test_what_such_a_model_does_not_do_is_refused(
    pipeline: Pipeline, fields: dict[str, object], kind: type[AtelierError], param: str, message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        await _plan(pipeline, **fields)
    assert caught.value.param == param


async def test_an_image_with_transparent_parts_is_refused_before_any_model(
    pipeline: Pipeline, stages: RecordingStages
) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.putpixel((1, 1), (0, 0, 0, 0))
    params = parse(GenerateParams, {"prompt": "x", "model": "small-sdxl-edit", "init_image": encoded(image)})
    with pytest.raises(InvalidParameter, match="init_image: small-sdxl-edit edits whole images"):
        await pipeline.generate(new_record(), params)
    assert stages.calls == []
