"""Writes a diffusers folder of SDXL's architecture as one checkpoint in the original layout, that of LDM and sgm.

The names are built from the layers of the original networks, not from the tables of diffusers, which only go the
other way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT_ENCODER, TEXT_ENCODER_2 = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_single_file(
    folder: Path,
    file: Path,
    *,
    without: Iterable[str] = (),
    extra: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the model in `folder` to `file`, but for tensors whose names begin with one of `without`."""
    tensors = {
        **_unet(folder / "unet"),
        **_vae(folder / "vae"),
        **_clip(folder),
        **_open_clip(folder),
        **(extra or {}),
    }
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if not name.startswith(tuple(without))}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, file, metadata=dict(metadata or {}))
    return file


def write_vae_file(folder: Path, file: Path) -> Path:
    """Write the VAE of the model in `folder` as a file of its own, whose names have no prefix."""
    tensors = _vae(folder / "vae").items()
    save_file({name.removeprefix(VAE): tensor.contiguous() for name, tensor in tensors}, file)
    return file


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Replace the layer's path at the beginning of a name such as norm1.weight."""
    layer, _, kind = name.rpartition(".")
    return f"{names[layer]}.{kind}"


def _read(folder: Path) -> tuple[dict[str, object], Tensors]:
    [weights] = folder.glob("*.safetensors")
    return json.loads((folder / "config.json").read_text()), load_file(weights)


def _unet(folder: Path) -> Tensors:
    config, tensors = _read(folder)
    types, num_layers = config["up_block_types"], config["layers_per_block"]
    assert isinstance(types, list)
    assert isinstance(num_layers, int)
    # After the attention of the block's last layer, if it has any.
    upsamplers = [2 if "Attn" in kind else 1 for kind in types]
    return {UNET + _unet_name(name, num_layers, upsamplers): tensor for name, tensor in tensors.items()}


def _unet_name(name: str, num_layers: int, upsamplers: list[int]) -> str:
    match name.split("."):
        case ["mid_block", "resnets", layer, *rest]:
            return f"middle_block.{2 * int(layer)}.{_renamed('.'.join(rest), _RESNET)}"
        case ["mid_block", "attentions", "0", *rest]:
            return f"middle_block.1.{'.'.join(rest)}"
        case ["down_blocks" | "up_blocks" as way, block, kind, layer, *rest]:
            is_down = way == "down_blocks"
            is_resampler = kind in ("downsamplers", "upsamplers")
            # Both ways have one more module than layers in a block; the first module on the way down is conv_in.
            index = int(block) * (num_layers + 1) + (num_layers if is_resampler else int(layer)) + is_down
            begin = f"{'input' if is_down else 'output'}_blocks.{index}"
            if kind == "resnets":
                return f"{begin}.0.{_renamed('.'.join(rest), _RESNET)}"
            if kind == "attentions":
                return f"{begin}.1.{'.'.join(rest)}"
            return f"{begin}.0.op.{rest[-1]}" if is_down else f"{begin}.{upsamplers[int(block)]}.conv.{rest[-1]}"
    return _renamed(name, _UNET_ENDS)


def _vae(folder: Path) -> Tensors:
    config, tensors = _read(folder)
    types = config["up_block_types"]
    assert isinstance(types, list)
    original = {}
    for name, tensor in tensors.items():
        is_attention = ".attentions." in name and tensor.ndim == 2
        # The original attention has convolutions of one pixel.
        original[VAE + _vae_name(name, len(types))] = tensor[:, :, None, None] if is_attention else tensor
    return original


def _vae_name(name: str, num_blocks: int) -> str:
    match name.split("."):
        case [half, "mid_block", "resnets", layer, *rest]:
            return f"{half}.mid.block_{int(layer) + 1}.{'.'.join(rest)}"
        case [half, "mid_block", "attentions", "0", *rest]:
            return f"{half}.mid.attn_1.{_renamed('.'.join(rest), _VAE_ATTENTION)}"
        case [half, "down_blocks" | "up_blocks" as way, block, kind, layer, *rest]:
            # The original counts both ways from the full resolution.
            level = int(block) if way == "down_blocks" else num_blocks - 1 - int(block)
            begin = f"{half}.{way.removesuffix('_blocks')}.{level}"
            if kind == "resnets":
                return f"{begin}.block.{layer}.{'.'.join(rest).replace('conv_shortcut', 'nin_shortcut')}"
            return f"{begin}.{'down' if kind == 'downsamplers' else 'up'}sample.{'.'.join(rest)}"
    return name.replace("conv_norm_out", "norm_out")


def _clip(folder: Path) -> Tensors:
    """Return the first text encoder in the names that transformers had at the time, with a buffer it had."""
    _, tensors = _read(folder / "text_encoder")
    named = {f"{TEXT_ENCODER}text_model.{name.removeprefix('text_model.')}": one for name, one in tensors.items()}
    return {**named, f"{TEXT_ENCODER}text_model.embeddings.position_ids": torch.arange(77)[None]}


def _open_clip(folder: Path) -> Tensors:
    _, tensors = _read(folder / "text_encoder_2")
    named = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    original = {
        "positional_embedding": named.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": named.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": named.pop("final_layer_norm.weight"),
        "ln_final.bias": named.pop("final_layer_norm.bias"),
        "text_projection": named.pop("text_projection.weight").T,
        "logit_scale": torch.tensor(4.6),
    }
    for name in list(named):
        if ".self_attn.q_proj." in name:
            joined = torch.cat([named.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")])
            _, _, layer, *_, kind = name.split(".")
            original[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = joined
    for name, tensor in named.items():
        _, _, layer, *rest = name.split(".")
        original[f"transformer.resblocks.{layer}.{_renamed('.'.join(rest), _CLIP_LAYER)}"] = tensor
    return {TEXT_ENCODER_2 + name: tensor for name, tensor in original.items()}
