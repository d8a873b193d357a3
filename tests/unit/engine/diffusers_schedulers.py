"""The diffusers schedulers that samplers and schedules stand for, written out as the oracle's own table.

Only a type is taken from `atelier.core.sampling`, so that a wrong class, setting or schedule there is found.
"""

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

from atelier.core.sampling import ScheduleName

Settings = Mapping[str, str | int | float | bool]

#: The noise schedule of SDXL base, as its scheduler_config.json has it.
SDXL: Mapping[str, object] = {
    "_class_name": "EulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

_CLASSES: Mapping[str, tuple[type[SchedulerMixin], Settings]] = {
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

_SCHEDULES: Mapping[ScheduleName | None, Settings] = {
    None: {},
    "normal": {"timestep_spacing": "leading"},
    "karras": {"use_karras_sigmas": True, "use_exponential_sigmas": False},
    "exponential": {"use_karras_sigmas": False, "use_exponential_sigmas": True},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
}

_SPACINGS: tuple[ScheduleName, ...] = ("normal", "trailing", "linspace")
_ALL: tuple[ScheduleName, ...] = (*_SPACINGS, "karras", "exponential")

#: The schedules of each sampler besides the model's own.
SCHEDULES_OF: Mapping[str, tuple[ScheduleName, ...]] = {
    "euler": _ALL,
    "euler_a": _SPACINGS,
    "ddim": _SPACINGS,
    "dpmpp_2m": _ALL,
    "dpmpp_2m_sde": _ALL,
    "lcm": ("normal",),
    "unipc": _ALL,
    "heun": _ALL,
}

#: Every sampler with every schedule; None is the model's own.
EVERY: list[tuple[str, ScheduleName | None]] = [
    (sampler, schedule) for sampler, schedules in SCHEDULES_OF.items() for schedule in (None, *schedules)
]


def new_scheduler(
    config: Mapping[str, object], sampler: str, schedule: ScheduleName | None, num_inference_steps: int
) -> SchedulerMixin:
    """The diffusers scheduler of a sampler and a schedule, with its timesteps set."""
    kind, settings = _CLASSES[sampler]
    scheduler = kind.from_config(config, **settings, **_SCHEDULES[schedule])
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
