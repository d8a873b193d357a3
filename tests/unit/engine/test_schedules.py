from __future__ import annotations

import pytest

from atelier.core.sampling import SAMPLERS, SamplerName, Sampling
from atelier.engine.schedules import ALPHA, SIGMA, TIMESTEP, Schedules
from tests.unit.engine.diffusers_schedulers import SDXL


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"clip_sample": True}, "clips its predictions"),
        ({"thresholding": True}, "clips its predictions"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr needs the prediction_type v_prediction"),
        ({"prediction_type": "sample"}, "'sample' is not one of epsilon, v_prediction"),
    ],
)
def test_scheduler_that_the_formula_cannot_express_is_rejected(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedules({**SDXL, **setting})


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_schedule_has_a_row_per_evaluation_of_the_unet(sampler: SamplerName, strength: float) -> None:
    sampling = Sampling(num_inference_steps=8, sampler=sampler, strength=strength)
    assert len(Schedules(SDXL).of(sampling).steps) == sampling.num_evaluations


def test_zero_terminal_snr_begins_at_the_noise_of_diffusers() -> None:
    """diffusers bounds σ by keeping 2⁻²⁴ of the image; with DDIM's α² + σ² = 1 nothing is left of it."""
    schedules = Schedules(
        {
            **SDXL,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        }
    )
    euler, ddim = (schedules.of(Sampling(num_inference_steps=5, sampler=sampler)) for sampler in ("euler", "ddim"))
    assert euler.steps[0, [TIMESTEP, ALPHA]].tolist() == [999, 1]
    assert euler.steps[0, SIGMA] == pytest.approx((2**24 - 1) ** 0.5)
    assert euler.init_noise_sigma == euler.steps[0, SIGMA]
    assert ddim.steps[0, [TIMESTEP, ALPHA, SIGMA]].tolist() == [999, 0, 1]


def test_strength_leaves_out_the_first_steps() -> None:
    schedules = Schedules(SDXL)
    whole, last_three = (schedules.of(Sampling(num_inference_steps=6, strength=strength)) for strength in (1.0, 0.5))
    columns = [TIMESTEP, ALPHA, SIGMA]
    assert last_three.steps[:, columns].tolist() == whole.steps[3:, columns].tolist()


def test_heun_evaluates_the_unet_twice_in_every_step_but_the_last() -> None:
    schedules = Schedules(SDXL)
    assert len(schedules.of(Sampling(num_inference_steps=7, sampler="heun")).steps) == 13
    assert len(schedules.of(Sampling(num_inference_steps=7)).steps) == 7


def test_default_is_the_models_own_schedule_and_equal_samplings_share_one() -> None:
    schedules = Schedules(SDXL)
    own, normal, trailing = (
        schedules.of(Sampling(num_inference_steps=10, schedule=name)) for name in (None, "normal", "trailing")
    )
    assert own.steps.tolist() == normal.steps.tolist()
    assert own.steps[0, TIMESTEP] < trailing.steps[0, TIMESTEP] == 999
    assert schedules.of(Sampling(num_inference_steps=10)) is own
