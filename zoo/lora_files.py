"""LoRA files in the layouts that trainers write: diffusers', peft's, kohya-ss's scripts' and LyCORIS's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

PEFT_PREFIX = "base_model.model."
#: peft's name of a LoRA that is trained.
TRAINED = "default"
#: SDXL's original names of the layers of a resnet block.
_ORIGINAL_LAYERS = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ORIGINAL_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}


def write_diffusers(parts: Mapping[str, PeftModel], file: Path) -> None:
    """Write the layers of all parts into one file, with peft's configurations in its header, as diffusers does."""
    layers = {
        f"{part}_lora_layers": {
            key.removeprefix(PEFT_PREFIX): weight for key, weight in get_peft_model_state_dict(model).items()
        }
        for part, model in parts.items()
    }
    configs = {f"{part}_lora_adapter_metadata": model.peft_config[TRAINED].to_dict() for part, model in parts.items()}
    StableDiffusionXLPipeline.save_lora_weights(file.parent, weight_name=file.name, **layers, **configs)


def write_peft(model: PeftModel, folder: Path) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, which alone has alpha, as peft does."""
    model.save_pretrained(str(folder), selected_adapters=[TRAINED])
    (folder / "README.md").unlink()


def write_kohya(model: PeftModel, file: Path, header: Mapping[str, str], *, layers_per_block: int | None) -> None:
    """Write a UNet's layers as kohya-ss's scripts do, each with its alpha.

    Layers have SDXL's original names, for a UNet of so many layers per block, or diffusers' names if that is None.
    """
    weights = {}
    for name, layer in lora_layers(model.get_base_model()):
        if TRAINED not in layer.lora_A:
            continue
        named = name if layers_per_block is None else original_name(name, layers_per_block)
        key = f"lora_unet_{named.replace('.', '_')}"
        down = layer.lora_A[TRAINED].get_parameter("weight").detach()
        weights[f"{key}.alpha"] = torch.tensor(layer.lora_alpha[TRAINED], dtype=down.dtype)
        weights[f"{key}.lora_down.weight"] = down.contiguous()
        weights[f"{key}.lora_up.weight"] = layer.lora_B[TRAINED].get_parameter("weight").detach().contiguous()
    save_file(weights, file, metadata=dict(header))


def lora_layers(module: torch.nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the layers that peft changes, with their names."""
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer))


def load_into_unet(file: Path, unet: UNet2DConditionModel, name: str) -> None:
    """Add a LoRA for the UNet, in one of the layouts that diffusers reads, to those that the UNet has."""
    weights, alphas, header = StableDiffusionXLPipeline.lora_state_dict(
        file, unet_config=unet.config, return_lora_metadata=True
    )
    StableDiffusionXLPipeline.load_lora_into_unet(weights, alphas, unet, adapter_name=name, metadata=header)


def original_name(name: str, layers_per_block: int) -> str:
    """Translate diffusers' name of a layer within a UNet's blocks into that of SDXL's original code.

    >>> original_name("up_blocks.1.upsamplers.0.conv", layers_per_block=2)
    'output_blocks.5.2.conv'
    """
    block, *rest = name.split(".")
    if block == "mid_block":
        return _join("middle_block", _ORIGINAL_MIDDLE[".".join(rest[:2])], rest[2:])
    number, kind, index = int(rest[0]), rest[1], int(rest[2])
    layers = layers_per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{(number + 1) * layers}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{number * layers + layers_per_block}.2.conv"
    at = number * layers + index
    branch = "0" if kind == "resnets" else "1"
    side, at = ("input_blocks", at + 1) if block == "down_blocks" else ("output_blocks", at)
    return _join(f"{side}.{at}", branch, rest[3:])


def _join(block: str, branch: str, layer: list[str]) -> str:
    return ".".join([block, branch, _ORIGINAL_LAYERS.get(".".join(layer), ".".join(layer))])
