"""The metadata that an image's file carries about its request."""

from __future__ import annotations

from importlib.metadata import version

from atelier.core.sampling import SAMPLERS
from atelier.imaging.metadata import Metadata
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.resolve import Plan
from atelier.prompts.lora_tags import write_lora_tag

#: Schedule names as AUTOMATIC1111 writes them; its "Normal" spaces timesteps as `linspace` does, not as our `normal`.
#: Schedules without such a name are left out of the infotext.
_SCHEDULES = {"linspace": "Normal", "karras": "Karras", "exponential": "Exponential"}
_SERVER = f"Atelier {version('atelier')}"
_VERSIONS = {name: version(name) for name in ("atelier", "diffusers", "torch", "transformers")}


def metadata_of(plan: Plan, seed: int, provenance: Provenance) -> Metadata:
    """Return the metadata of the image with this seed: AUTOMATIC1111's text, and a record that reproduces it."""
    record = {
        "parameters": plan.parameters(seed),
        **({"trigger_words_added": list(plan.trigger_words_added)} if plan.trigger_words_added else {}),
        "weights": provenance.weights,
        "exactness_key": provenance.exactness_key,
        "server": _SERVER,
        "versions": _VERSIONS,
    }
    return Metadata(_infotext(plan, seed), record)


def _infotext(plan: Plan, seed: int) -> str:
    """Write prompt, with LoRAs as tags, negative prompt and settings in AUTOMATIC1111's format."""
    params, sampling = plan.params, plan.passes[0].sampling
    settings = {
        "Steps": params.num_inference_steps,
        "Sampler": SAMPLERS[sampling.sampler].a1111_name,
        "Schedule type": _SCHEDULES.get(sampling.schedule or ""),
        "CFG scale": params.guidance_scale,
        "Image CFG scale": params.image_guidance_scale,
        "Seed": seed,
        "Size": params.size,
        "Model": params.model,
        "Denoising strength": params.strength,
        "Version": _SERVER,
    }
    tags = (write_lora_tag(lora.id, lora.weight) for lora in plan.passes[0].loras)
    lines = [" ".join(filter(None, [params.prompt, *tags]))]
    if params.negative_prompt:
        lines.append(f"Negative prompt: {params.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None))
    return "\n".join(lines)
