"""Checkpoint files of few bytes that tests put into folders of models; no model can be loaded from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

_UNET = "model.diffusion_model."
#: Names and shapes of tensors, one or two of each part of an SDXL checkpoint.
SDXL: Mapping[str, tuple[int, ...]] = {
    f"{_UNET}input_blocks.0.0.weight": (2, 4, 3, 3),
    f"{_UNET}label_emb.0.0.weight": (2, 2),
    "first_stage_model.decoder.conv_in.weight": (2,),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (2,),
    "conditioner.embedders.1.model.ln_final.bias": (2,),
}
#: The same of a Stable Diffusion 1.5 checkpoint.
SD_1: Mapping[str, tuple[int, ...]] = {
    f"{_UNET}input_blocks.0.0.weight": (2, 4, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (2,),
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": (2,),
}


def write_checkpoint(
    folder: Path,
    stem: str,
    *,
    shapes: Mapping[str, tuple[int, ...]] = SDXL,
    metadata: Mapping[str, str] | None = None,
    beside: Mapping[str, object] | None = None,
) -> Path:
    """Write STEM.safetensors and, if `beside` is given, STEM.json beside it."""
    file = folder / f"{stem}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.zeros(shape, dtype=np.float16) for name, shape in shapes.items()}
    save_file(tensors, file, metadata=dict(metadata or {}))
    if beside is not None:
        file.with_suffix(".json").write_text(json.dumps(dict(beside)))
    return file
