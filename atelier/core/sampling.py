"""Samplers and schedules by their names on the wire, and what goes with what.

What they compute lives in `atelier.engine.samplers` and `.schedules`; this table is all the rest of the server
needs to check a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SamplerName = Literal["euler", "euler_a", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "unipc", "heun"]
ScheduleName = Literal["normal", "karras", "exponential", "trailing", "linspace"]
Reproducibility = Literal["fast", "exact"]

_ALL: tuple[ScheduleName, ...] = get_args(ScheduleName)
_SPACINGS: tuple[ScheduleName, ...] = ("normal", "trailing", "linspace")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerRules:
    """What a sampler is called elsewhere and which settings it takes."""

    a1111_name: str
    #: As far as diffusers has them: what it does not have could not be checked against it.
    schedules: tuple[ScheduleName, ...] = _ALL
    max_steps: int = 150
    takes_eta: bool = False


SAMPLERS: dict[SamplerName, SamplerRules] = {
    "euler": SamplerRules(a1111_name="Euler"),
    "euler_a": SamplerRules(a1111_name="Euler a", schedules=_SPACINGS),
    "ddim": SamplerRules(a1111_name="DDIM", schedules=_SPACINGS, takes_eta=True),
    "dpmpp_2m": SamplerRules(a1111_name="DPM++ 2M"),
    "dpmpp_2m_sde": SamplerRules(a1111_name="DPM++ 2M SDE"),
    #: Its timesteps are chosen among the 50 that it was distilled on.
    "lcm": SamplerRules(a1111_name="LCM", schedules=("normal",), max_steps=50),
    "unipc": SamplerRules(a1111_name="UniPC"),
    "heun": SamplerRules(a1111_name="Heun"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a request goes from noise to latents."""

    num_inference_steps: int
    sampler: SamplerName = "euler"
    #: None: the model's own.
    schedule: ScheduleName | None = None
    #: Share of DDIM's noise (Song et al. 2021, eq. 16).
    eta: float = 0.0
    #: Share of the steps that are taken; the first of them starts from the initial image at its noise level.
    strength: float = 1.0

    @property
    def num_taken_steps(self) -> int:
        return int(self.num_inference_steps * self.strength)
