from __future__ import annotations

import pytest
from diffusers import UNet2DConditionModel

from atelier.core.sampling import Sampling
from atelier.engine.schedules import TIMESTEP, Schedules
from atelier.families.sdxl.attention import install

_SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"clip_sample": True}, "clips its predictions"),
        ({"thresholding": True}, "clips its predictions"),
        ({"prediction_type": "sample"}, "'sample' is not one of epsilon, v_prediction"),
    ],
)
def test_what_the_formula_cannot_express_is_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedules({**_SDXL, **setting})


def test_heun_asks_the_unet_twice_in_every_step_but_the_last() -> None:
    schedules = Schedules(_SDXL)
    assert len(schedules.of(Sampling(num_inference_steps=7, sampler="heun")).steps) == 13
    assert len(schedules.of(Sampling(num_inference_steps=7)).steps) == 7


def test_the_models_own_schedule_is_the_default_and_the_same_one_is_made_once() -> None:
    schedules = Schedules(_SDXL)
    own, normal, trailing = (
        schedules.of(Sampling(num_inference_steps=10, schedule=name)) for name in (None, "normal", "trailing")
    )
    assert own.steps.tolist() == normal.steps.tolist()
    assert own.steps[0, TIMESTEP] < trailing.steps[0, TIMESTEP] == 999
    assert schedules.of(Sampling(num_inference_steps=10)) is own


def test_attention_that_is_not_sdxls_is_refused() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        cross_attention_dim=16,
    )
    with pytest.raises(ValueError, match="not the plain attention"):
        install(unet)
