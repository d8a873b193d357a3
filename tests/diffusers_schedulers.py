"""The diffusers scheduler of every sampler and schedule, in a table that does not depend on the code under test."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

_SAMPLERS: dict[str, tuple[type[SchedulerMixin], dict[str, object]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpmpp_2m": (
        DPMSolverMultistepScheduler,
        {
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "lower_order_final": True,
            "euler_at_final": False,
            "final_sigmas_type": "zero",
        },
    ),
    "dpmpp_2m_sde": (
        DPMSolverMultistepScheduler,
        {
            "algorithm_type": "sde-dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "lower_order_final": True,
            "euler_at_final": False,
            "final_sigmas_type": "zero",
        },
    ),
    "lcm": (LCMScheduler, {"clip_sample": False}),
    "unipc": (
        UniPCMultistepScheduler,
        {
            "solver_order": 2,
            "solver_type": "bh2",
            "predict_x0": True,
            "lower_order_final": True,
            "final_sigmas_type": "zero",
        },
    ),
    "heun": (HeunDiscreteScheduler, {"clip_sample": False}),
}
_SCHEDULES: dict[str | None, dict[str, object]] = {
    None: {},
    "normal": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "karras": {"use_karras_sigmas": True, "use_exponential_sigmas": False},
    "exponential": {"use_karras_sigmas": False, "use_exponential_sigmas": True},
}


def diffusers_scheduler(
    config: Mapping[str, object], sampler: str, schedule: str | None = None, *, num_inference_steps: int | None = None
) -> SchedulerMixin:
    """The scheduler with a model's config; its timesteps are set if `num_inference_steps` is given."""
    scheduler_class, settings = _SAMPLERS[sampler]
    scheduler = scheduler_class.from_config(config, **settings, **_SCHEDULES[schedule])
    if num_inference_steps is not None:
        scheduler.set_timesteps(num_inference_steps)
    return scheduler
