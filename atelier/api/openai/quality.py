"""Conversion of OpenAI's `quality` and `style` to a number of steps, an enlargement and a guidance scale."""

from __future__ import annotations

from typing import Literal

from atelier.catalogue.entries import ModelEntry
from atelier.core.params.upscale import UpscaleStep
from atelier.core.sampling import SAMPLERS, SamplerName

Quality = Literal["auto", "low", "medium", "standard", "high", "hd", "xhigh", "max"]
ResolvedQuality = Literal["low", "medium", "high", "xhigh", "max"]
Style = Literal["vivid", "natural"]

#: Quality that each requested name stands for; names not listed stand for `medium`.
_RESOLVED: dict[Quality, ResolvedQuality] = {
    "low": "low",
    "high": "high",
    "hd": "high",
    "xhigh": "xhigh",
    "max": "max",
}
#: Factor by which a quality multiplies the model's default number of steps.
_STEPS: dict[ResolvedQuality, float] = {"low": 0.5, "medium": 1, "high": 1.5, "xhigh": 2, "max": 3}
#: Factor by which a style multiplies the model's default guidance scale.
_GUIDANCE: dict[Style, float] = {"vivid": 1.4, "natural": 0.7}
#: Enlargement that `quality: max` implies if neither `size`, `hires`, `upscale` nor an input image decides the size.
MAX_QUALITY_UPSCALE = UpscaleStep(scale=2)


def resolved(quality: Quality) -> ResolvedQuality:
    """Return the quality that responses report: `hd` is `high`; `auto` and `standard` are `medium`."""
    return _RESOLVED.get(quality, "medium")


def steps_of(quality: Quality, entry: ModelEntry, sampler: SamplerName | None) -> int:
    """Return the number of steps for the quality, within the bounds of the sampler; None is the model's default."""
    steps = round(_STEPS[resolved(quality)] * entry.defaults.num_inference_steps)
    return min(max(1, steps), SAMPLERS[sampler or entry.defaults.sampler].max_steps)


def guidance_of(style: Style, entry: ModelEntry) -> float:
    """Return the guidance scale for the style."""
    return round(_GUIDANCE[style] * entry.defaults.guidance_scale, 2)
