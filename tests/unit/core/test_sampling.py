from __future__ import annotations

import pytest

from atelier.core.sampling import MAX_STEPS, SAMPLERS, Sampling, ScheduleName

_ALL: tuple[ScheduleName, ...] = ("normal", "karras", "exponential", "trailing", "linspace")
_SPACINGS: tuple[ScheduleName, ...] = ("normal", "trailing", "linspace")


@pytest.mark.parametrize(
    ("name", "a1111_name", "scheduler", "formula", "levels", "eta", "schedules", "max_steps", "order"),
    [
        ("euler", "Euler", "EulerDiscreteScheduler", "ddim", "sigmas", 0.0, _ALL, 150, 1),
        ("euler_a", "Euler a", "EulerAncestralDiscreteScheduler", "ddim", "sigmas", 1.0, _SPACINGS, 150, 1),
        ("ddim", "DDIM", "DDIMScheduler", "ddim", "ddim_timesteps", None, _SPACINGS, 150, 1),
        ("dpmpp_2m", "DPM++ 2M", "DPMSolverMultistepScheduler", "dpmpp_2m", "scaled_sigmas", 0.0, _ALL, 150, 1),
        (
            "dpmpp_2m_sde",
            "DPM++ 2M SDE",
            "DPMSolverMultistepScheduler",
            "dpmpp_2m_sde",
            "scaled_sigmas",
            0.0,
            _ALL,
            150,
            1,
        ),
        ("lcm", "LCM", "LCMScheduler", "lcm", "timesteps", 0.0, ("normal",), 50, 1),
        ("unipc", "UniPC", "UniPCMultistepScheduler", "unipc", "scaled_sigmas", 0.0, _ALL, 150, 1),
        ("heun", "Heun", "HeunDiscreteScheduler", "heun", "sigmas", 0.0, _ALL, 150, 2),
    ],
)
def test_each_sampler_has_its_row(
    name: str,
    a1111_name: str,
    scheduler: str,
    formula: str,
    levels: str,
    eta: float | None,
    schedules: tuple[ScheduleName, ...],
    max_steps: int,
    order: int,
) -> None:
    row = SAMPLERS[name]
    assert (row.a1111_name, row.scheduler, row.formula, row.levels) == (a1111_name, scheduler, formula, levels)
    assert (row.eta, row.schedules, row.max_steps, row.order) == (eta, schedules, max_steps, order)


def test_there_are_eight_samplers() -> None:
    assert list(SAMPLERS) == ["euler", "euler_a", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "unipc", "heun"]


def test_the_schedulers_of_diffusers_have_their_settings() -> None:
    dpmpp = {
        "solver_order": 2,
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "solver_type": "midpoint",
        "euler_at_final": False,
    }
    assert {name: dict(row.settings) for name, row in SAMPLERS.items()} == {
        "euler": {},
        "euler_a": {},
        "ddim": {"clip_sample": False},
        "dpmpp_2m": {**dpmpp, "algorithm_type": "dpmsolver++"},
        "dpmpp_2m_sde": {**dpmpp, "algorithm_type": "sde-dpmsolver++"},
        "lcm": {"clip_sample": False},
        "unipc": {
            "solver_order": 2,
            "lower_order_final": True,
            "final_sigmas_type": "zero",
            "solver_type": "bh2",
            "predict_x0": True,
        },
        "heun": {"clip_sample": False},
    }


def test_only_ddim_takes_eta() -> None:
    assert [name for name, row in SAMPLERS.items() if row.takes_eta] == ["ddim"]


def test_sampling_is_euler_from_pure_noise_by_default() -> None:
    sampling = Sampling(num_inference_steps=20)
    assert (sampling.sampler, sampling.schedule, sampling.eta, sampling.strength) == ("euler", None, 0, 1)
    assert MAX_STEPS == 150


@pytest.mark.parametrize(
    ("num_steps", "strength", "taken"), [(20, 1, 20), (20, 0.55, 11), (10, 0.19, 1), (7, 0.5, 3)]
)
def test_strength_takes_a_share_of_the_steps_rounded_down(num_steps: int, strength: float, taken: int) -> None:
    assert Sampling(num_inference_steps=num_steps, strength=strength).num_taken_steps == taken


@pytest.mark.parametrize(("num_steps", "strength"), [(10, 0.09), (1, 0.99), (0, 1)])
def test_sampling_without_a_step_is_rejected(num_steps: int, strength: float) -> None:
    with pytest.raises(ValueError, match="is none"):
        Sampling(num_inference_steps=num_steps, strength=strength)


@pytest.mark.parametrize(
    ("sampler", "strength", "evaluations"), [("euler", 1, 10), ("heun", 1, 19), ("heun", 0.5, 9), ("euler", 0.5, 5)]
)
def test_heun_evaluates_twice_except_in_the_last_step(sampler: str, strength: float, evaluations: int) -> None:
    sampling = Sampling(num_inference_steps=10, sampler=sampler, strength=strength)
    assert sampling.num_evaluations == evaluations
