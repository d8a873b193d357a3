"""The folder of a LoRA: its file in the layout of its recipe, and what a list of LoRAs shows of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from peft import PeftModel

from zoo import lora_files
from zoo.lora_recipes import LoraRecipe


def write(recipe: LoraRecipe, parts: Mapping[str, PeftModel], captions: Sequence[str], num_steps: int) -> None:
    """Write a LoRA's file and its entry, all but the preview; it was trained for so many steps on these captions."""
    recipe.folder.mkdir(exist_ok=True)
    if recipe.layout == "diffusers":
        lora_files.write_diffusers(parts, recipe.file)
    elif recipe.layout == "peft":
        lora_files.write_peft(parts["unet"], recipe.folder)
    else:
        header = kohya_header(recipe, captions, num_steps)
        layers = parts["unet"].config["layers_per_block"] if recipe.layout == "kohya" else None
        lora_files.write_kohya(parts["unet"], recipe.file, header, layers_per_block=layers)
    recipe.file.chmod(0o644)
    recipe.file.with_suffix(".json").write_text(json.dumps(_entry(recipe), indent=2) + "\n")


def _entry(recipe: LoraRecipe) -> dict[str, object]:
    """Return what a list of LoRAs shows of this one."""
    return {
        "description": recipe.description,
        "tags": recipe.tags,
        "trigger_words": [] if recipe.trigger is None else [recipe.trigger],
        "licence": "Apache-2.0",
        "weight": 1.0,
        "base": "tiny-sdxl",
        "preview": recipe.preview,
    }


def kohya_header(recipe: LoraRecipe, captions: Iterable[str], num_steps: int) -> dict[str, str]:
    """Return the header that kohya-ss's scripts write, all values as strings; tags are the parts of captions."""
    tags = Counter(tag for caption in captions for tag in recipe.prompt(caption).split(", "))
    is_lycoris = recipe.layout == "lycoris"
    arguments = {"conv_dim": str(recipe.conv_rank), "conv_alpha": str(recipe.conv_alpha)}
    return {
        "ss_output_name": recipe.name,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_sd_model_name": "tiny-sdxl",
        "ss_network_module": "lycoris.kohya" if is_lycoris else "networks.lora",
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(float(recipe.alpha)),
        "ss_network_args": json.dumps({**arguments, "algo": "lora"} if is_lycoris else arguments),
        "ss_tag_frequency": json.dumps({f"1_{recipe.name}": dict(tags.most_common(50))}),
        "ss_steps": str(num_steps),
        "ss_seed": "0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": recipe.name,
        "modelspec.license": "Apache-2.0",
    }
