"""A tiny SDXL of random weights, for tests that check behaviour and not what an image shows.

It has every part of the real architecture, only narrower: a UNet, two text encoders of different widths, a VAE,
ControlNets and the zoo's tokenizers. Weights come from a fixed seed. The text encoders' embeddings are large enough
for another prompt to give clearly different latents.
"""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.entries import ControlNetEntry, Defaults, Files, ModelEntry, Sides
from atelier.core.geometry import Size
from atelier.models.loading import Placement

CPU = Placement("cpu", "float32")

#: Widths of the two text encoders' hidden states, which the UNet reads side by side, and of the pooled embedding.
TEXT_WIDTHS, POOLED_WIDTH = (24, 40), 32

_TIME_ID_WIDTH = 8
_CONTROLNETS = ("canny", "depth")


def write_small_catalogue(folder: Path) -> Catalogue:
    """Write the models' files under `folder` and return the catalogue that serves them.

    It holds `small-sdxl` with the ControlNets `small-canny` and `small-depth`, and the zoo's annotator and upscaler.
    """
    zoo = read_catalogue().only(["tiny-sdxl"], [], ["tiny-depth-anything"], ["tiny-x4"])
    [zoo_model] = zoo.models
    assert zoo_model.files.folder is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = _new_unet()
        _write_parts(unet, zoo_model.files.folder, folder / "small-sdxl")
        controlnets = tuple(
            write_controlnet(unet, kind, folder / f"small-{kind}", base="small-sdxl") for kind in _CONTROLNETS
        )
    model = ModelEntry(
        id="small-sdxl",
        aliases=zoo_model.aliases,
        description="SDXL's architecture with random weights",
        owned_by="atelier",
        created=datetime.date(2026, 1, 1),
        licence="Apache-2.0",
        files=Files(folder=folder / "small-sdxl"),
        sides_px=Sides(min=32, max=256),
        latent_rgb=zoo_model.latent_rgb,
        defaults=Defaults(size=Size(width=64, height=64), num_inference_steps=4, guidance_scale=5.0),
    )
    return Catalogue(models=(model,), controlnets=controlnets, annotators=zoo.annotators, upscalers=zoo.upscalers)


def _write_parts(unet: UNet2DConditionModel, zoo_folder: Path, folder: Path) -> None:
    tokenizer, tokenizer_2 = (
        CLIPTokenizer.from_pretrained(str(zoo_folder / name)) for name in ("tokenizer", "tokenizer_2")
    )
    encoder = CLIPTextModel(text_config(tokenizer, TEXT_WIDTHS[0]))
    encoder_2 = CLIPTextModelWithProjection(text_config(tokenizer_2, TEXT_WIDTHS[1]))
    for module in itertools.chain(encoder.modules(), encoder_2.modules()):
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    parts = {
        "unet": unet,
        "vae": new_vae(),
        "text_encoder": encoder,
        "text_encoder_2": encoder_2,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "scheduler": new_scheduler(),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)


def write_controlnet(unet: UNet2DConditionModel, kind: str, folder: Path, *, base: str) -> ControlNetEntry:
    """Write a ControlNet whose output convolutions, which training starts from zero, are random."""
    controlnet = ControlNetModel.from_unet(unet, conditioning_channels=3)
    outputs = (
        controlnet.controlnet_down_blocks,
        controlnet.controlnet_mid_block,
        controlnet.controlnet_cond_embedding.conv_out,
    )
    for parameter in itertools.chain.from_iterable(module.parameters() for module in outputs):
        torch.nn.init.normal_(parameter, std=0.3)
    controlnet.save_pretrained(folder)
    return ControlNetEntry(
        id=folder.name,
        description="A ControlNet with random weights",
        licence="Apache-2.0",
        files=Files(folder=folder),
        base=base,
        kind=kind,
        scale=0.8,
    )


def _new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=sum(TEXT_WIDTHS),
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * _TIME_ID_WIDTH,
    )


def new_vae() -> AutoencoderKL:
    """A VAE with SDXL's and Stable Diffusion 1.5's factor of 8."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.8,
    )


def new_scheduler() -> EulerDiscreteScheduler:
    """The noise schedule of SDXL base and of Stable Diffusion 1.5."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )


def text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    """A text encoder of two layers."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=POOLED_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
