"""What a finished picture's file tells of its request."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from atelier.core.origin import Origin, exactness_key, weights
from atelier.core.sampling import SAMPLERS
from atelier.imaging.metadata import Metadata
from atelier.pipeline.plan import Plan

#: AUTOMATIC1111's names of the schedules; what is none of them goes without saying.
_SCHEDULES = {"normal": "Normal", "karras": "Karras", "exponential": "Exponential"}
_SERVER = f"Atelier {version('atelier')}"
_VERSIONS = {name: version(name) for name in ("atelier", "diffusers", "torch", "transformers")}


def metadata_of(plan: Plan, seed: int, origins: Sequence[Origin]) -> Metadata:
    record = {
        "parameters": plan.parameters(seed),
        "weights": weights(origins),
        "exactness_key": exactness_key(origins),
        "server": _SERVER,
        "versions": _VERSIONS,
    }
    return Metadata(_infotext(plan, seed), record)


def _infotext(plan: Plan, seed: int) -> str:
    """Prompt, negative prompt and settings, as AUTOMATIC1111 writes and reads them."""
    sampling = plan.sampling
    settings = {
        "Steps": sampling.num_inference_steps,
        "Sampler": SAMPLERS[sampling.sampler].a1111_name,
        "Schedule type": _SCHEDULES.get(sampling.schedule or ""),
        "CFG scale": plan.guidance_scale,
        "Seed": seed,
        "Size": plan.size,
        "Model": plan.model,
        "Denoising strength": sampling.strength if plan.starts_from_picture else None,
        "Version": _SERVER,
    }
    lines = [plan.positive.prompt]
    if plan.negative is not None and plan.negative.prompt:
        lines.append(f"Negative prompt: {plan.negative.prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None))
    return "\n".join(lines)
