"""A tiny Stable Diffusion 1.5 of random weights beside the tiny SDXL, for tests of several families in one engine.

Like SD 1.5 it has attention in its first blocks and none in its last, convolutions around its transformers, one text
encoder, and no embedding of size or pooled prompt.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files
from tests.small_models import new_scheduler, new_vae, text_config, write_controlnet

TEXT_WIDTH = 24


def with_small_sd15(small: Catalogue, folder: Path) -> Catalogue:
    """Write `small-sd15` and its ControlNet `small-sd15-canny`, and add them to the small catalogue."""
    [sdxl] = small.models
    assert sdxl.files.folder is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = _new_unet()
        _write_parts(unet, sdxl.files.folder / "tokenizer", folder / "small-sd15")
        controlnet = write_controlnet(unet, "canny", folder / "small-sd15-canny", base="small-sd15")
    model = sdxl.model_copy(
        update={"id": "small-sd15", "family": "sd15", "aliases": (), "files": Files(folder=folder / "small-sd15")}
    )
    return small.model_copy(
        update={"models": (*small.models, model), "controlnets": (*small.controlnets, controlnet)}
    )


def _write_parts(unet: UNet2DConditionModel, tokenizer_folder: Path, folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    encoder = CLIPTextModel(text_config(tokenizer, TEXT_WIDTH))
    for module in encoder.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    # Unlike ones and zeros, random values show whether the last norm is applied.
    for parameter in encoder.final_layer_norm.parameters():
        torch.nn.init.normal_(parameter)
    parts = {
        "unet": unet,
        "vae": new_vae(),
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "scheduler": new_scheduler(),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)


def _new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
    )
