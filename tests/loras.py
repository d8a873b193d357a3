"""LoRAs with random weights, written as peft writes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from atelier.families.unet.adapters.keys import Part

#: Layers of a UNet, or of a text encoder, that a LoRA of each kind changes, as peft's `target_modules` names them.
TARGETS: Mapping[str, Sequence[str]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "linear": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "time_emb_proj"),
    "text": ("q_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "all": ("to_q", "to_k", "to_v", "ff.net.2", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out", "linear_1"),
}


def add_lora(model: torch.nn.Module, name: str, *, rank: int, targets: str, seed: int, strength: float = 0.3) -> None:
    """Add a random LoRA to a UNet of diffusers or a text encoder of transformers, by peft."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS[targets]), init_lora_weights=False)
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        # peft warns of a second LoRA in a model, which is what diffusers means here.
        warnings.simplefilter("ignore", UserWarning)
        model.add_adapter(config, adapter_name=name)  # type: ignore[operator]
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            fan_in = parameter[0].numel()
            spread = strength if ".lora_B." in key else fan_in**-0.5
            parameter.data = torch.randn(parameter.shape, generator=generator) * spread * (rank**-0.5)


def write_lora(name: str, file: Path, modules: Mapping[Part, torch.nn.Module]) -> None:
    """Write a LoRA that `add_lora` has added to a UNet, text encoders or all of them."""
    tensors: dict[str, torch.Tensor] = {}
    for part, module in modules.items():
        state = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
        tensors |= {f"{part}.{key}": tensor.contiguous() for key, tensor in state.items()}
    save_file(tensors, file)
