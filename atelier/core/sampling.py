"""Samplers and schedules by their names on the wire, and the bounds of their settings.

`SAMPLERS` is the one table of samplers: a new one is a row here, and a function in `atelier.engine.samplers` if it
follows a formula that is not there yet. The column `scheduler` names classes of diffusers without importing them,
because `atelier.core` must stay free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

ScheduleName = Literal["normal", "karras", "exponential", "trailing", "linspace"]
Reproducibility = Literal["fast", "exact"]
Setting = str | int | float | bool

MAX_STEPS = 150
NumInferenceSteps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
#: Values of at most 1 switch guidance off.
GuidanceScale = Annotated[float, Field(ge=0, le=30)]
#: How closely an edit by an instruction keeps to its image.
ImageGuidanceScale = Annotated[float, Field(ge=1, le=10)]
#: Fraction of the steps that is run when starting from an init image: small values keep it, 1 runs all steps.
Strength = Annotated[float, Field(gt=0, le=1)]

_ALL: tuple[ScheduleName, ...] = get_args(ScheduleName)
_SPACINGS: tuple[ScheduleName, ...] = ("normal", "trailing", "linspace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """A sampler: its diffusers scheduler, formula, noise levels and limits; one row of `SAMPLERS`."""

    a1111_name: str
    #: The scheduler class of diffusers which, created with `settings`, has the sampler's timesteps and noise levels.
    scheduler: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    #: The function of `atelier.engine.samplers` that computes the sampler's coefficients.
    formula: Literal["ddim", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "heun", "unipc"]
    #: Source of the noise levels: the scheduler's sigmas with α = 1, its sigmas scaled to α² + σ² = 1, or ᾱ at its
    #: timesteps; a step leads to the next timestep or, in `ddim_timesteps`, a fixed number of training steps lower.
    levels: Literal["sigmas", "scaled_sigmas", "timesteps", "ddim_timesteps"] = "sigmas"
    #: Fraction of fresh noise in the `ddim` formula; None takes the request's `eta`.
    eta: float | None = 0.0
    #: The schedules that diffusers has for this sampler; others could not be checked against it.
    schedules: tuple[ScheduleName, ...] = _ALL
    max_steps: int = MAX_STEPS
    #: UNet evaluations per step; the last step takes one.
    order: int = 1

    @property
    def takes_eta(self) -> bool:
        return self.eta is None


_SOLVER: Mapping[str, Setting] = {"solver_order": 2, "lower_order_final": True, "final_sigmas_type": "zero"}
_DPMPP: Mapping[str, Setting] = {**_SOLVER, "solver_type": "midpoint", "euler_at_final": False}

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(a1111_name="Euler", scheduler="EulerDiscreteScheduler", formula="ddim"),
    "euler_a": Sampler(
        a1111_name="Euler a",
        scheduler="EulerAncestralDiscreteScheduler",
        formula="ddim",
        eta=1.0,
        schedules=_SPACINGS,
    ),
    "ddim": Sampler(
        a1111_name="DDIM",
        scheduler="DDIMScheduler",
        settings={"clip_sample": False},
        formula="ddim",
        levels="ddim_timesteps",
        eta=None,
        schedules=_SPACINGS,
    ),
    "dpmpp_2m": Sampler(
        a1111_name="DPM++ 2M",
        scheduler="DPMSolverMultistepScheduler",
        settings={**_DPMPP, "algorithm_type": "dpmsolver++"},
        formula="dpmpp_2m",
        levels="scaled_sigmas",
    ),
    "dpmpp_2m_sde": Sampler(
        a1111_name="DPM++ 2M SDE",
        scheduler="DPMSolverMultistepScheduler",
        settings={**_DPMPP, "algorithm_type": "sde-dpmsolver++"},
        formula="dpmpp_2m_sde",
        levels="scaled_sigmas",
    ),
    # LCM chooses its timesteps among the 50 that it was distilled on.
    "lcm": Sampler(
        a1111_name="LCM",
        scheduler="LCMScheduler",
        settings={"clip_sample": False},
        formula="lcm",
        levels="timesteps",
        schedules=("normal",),
        max_steps=50,
    ),
    "unipc": Sampler(
        a1111_name="UniPC",
        scheduler="UniPCMultistepScheduler",
        settings={**_SOLVER, "solver_type": "bh2", "predict_x0": True},
        formula="unipc",
        levels="scaled_sigmas",
    ),
    "heun": Sampler(
        a1111_name="Heun",
        scheduler="HeunDiscreteScheduler",
        settings={"clip_sample": False},
        formula="heun",
        order=2,
    ),
}
if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampler, schedule and number of steps of a request."""

    num_inference_steps: int
    sampler: SamplerName = "euler"
    #: None is the schedule of the model's own scheduler.
    schedule: ScheduleName | None = None
    #: η of the `ddim` sampler, 0 … 1: 0 adds no noise, 1 as much as DDPM (Song et al. 2021, eq. 16).
    eta: float = 0.0
    #: Fraction of the steps that is run, 0 … 1: the last ones, from the init image noised to the level of the first.
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.num_taken_steps < 1:
            raise ValueError(f"{self.strength} of {self.num_inference_steps} steps is none")

    @property
    def num_taken_steps(self) -> int:
        return int(self.num_inference_steps * self.strength)

    @property
    def num_evaluations(self) -> int:
        """Number of UNet calls per row, which is what the engine counts as steps."""
        order = SAMPLERS[self.sampler].order
        return order * self.num_taken_steps - (order - 1)
