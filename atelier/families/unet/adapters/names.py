"""Names of a model's layers as LoRA files spell them.

The names are read off the model, so that no rule has to guess where an underscore was a dot. Besides the names of
diffusers and transformers these are the names of the UNet's blocks in SDXL's original checkpoint, which kohya's
sd-scripts train, and the names that older versions of diffusers and transformers had.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

#: Layers of SDXL's original UNet outside its blocks, by diffusers' names.
_OUTSIDE_BLOCKS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}

#: Layers of a residual block in the original checkpoint, by diffusers' names.
_IN_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

#: Attention layers of the text encoders in files of older versions of diffusers.
_OLD_TEXT_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def plain(name: str) -> str:
    """Return the spelling by which `layer_names` knows a layer.

    Dots and underscores are equal. diffusers once had a `processor` in each attention; transformers before version 5
    had a `text_model` in each text encoder.
    """
    return name.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")


def layer_names(model: torch.nn.Module) -> dict[str, str]:
    """Return the names of a UNet's or text encoder's Linear and Conv2d layers, by every plain spelling of each."""
    names: dict[str, str] = {}
    blocks = _OUTSIDE_BLOCKS | dict(_block_names(model)) if hasattr(model, "down_blocks") else {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            for spelling in _spellings(name, blocks):
                known = names.setdefault(plain(spelling), name)
                assert known == name, (known, name)
    return names


def _spellings(name: str, blocks: dict[str, str]) -> Iterator[str]:
    yield name
    if name.endswith(".to_out.0"):
        yield name.removesuffix(".0")
    stem, _, last = name.rpartition(".")
    if last in _OLD_TEXT_ATTENTION:
        yield f"{stem}.{_OLD_TEXT_ATTENTION[last]}"
    for block, original in blocks.items():
        if name == block:
            yield original
        elif name.startswith(f"{block}."):
            inner = name.removeprefix(f"{block}.")
            yield f"{original}.{_IN_RESNET.get(inner, inner)}"


def _block_names(unet: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    """Yield diffusers' and the original name of each residual block, transformer and resampling convolution."""
    number = 1
    for index, block in enumerate(unet.down_blocks):
        for inner in range(len(block.resnets)):
            yield f"down_blocks.{index}.resnets.{inner}", f"input_blocks.{number}.0"
            yield f"down_blocks.{index}.attentions.{inner}", f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers is not None:
            yield f"down_blocks.{index}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", "middle_block.2"
    number = 0
    for index, block in enumerate(unet.up_blocks):
        for inner in range(len(block.resnets)):
            yield f"up_blocks.{index}.resnets.{inner}", f"output_blocks.{number}.0"
            yield f"up_blocks.{index}.attentions.{inner}", f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers is not None:
            place = 2 if hasattr(block, "attentions") else 1
            yield f"up_blocks.{index}.upsamplers.0.conv", f"output_blocks.{number - 1}.{place}.conv"
