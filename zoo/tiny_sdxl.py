"""The recipe of tiny-sdxl: train every part, then write all parts as a folder that diffusers and the server load."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from zoo.dataset import latent_scaling_factor
from zoo.noise import new_scheduler
from zoo.sdxl import TextAndUNet, new_tokenizers, train_text_and_unet
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, write_weights
from zoo.vae import train_vae

FOLDER = WEIGHTS_FOLDER / "tiny-sdxl"


def make() -> None:
    """Train all parts of tiny-sdxl from scratch (resuming an interrupted run) and write safetensors in fp16."""
    vae = train_vae().requires_grad_(False)
    vae.register_to_config(scaling_factor=latent_scaling_factor(vae))
    model = train_text_and_unet(vae)
    write(vae, model, new_scheduler(), FOLDER)
    delete_states("vae", "vae-decoder", "sdxl", "sdxl-refined")


def write(
    vae: AutoencoderKL,
    model: TextAndUNet,
    scheduler: EulerDiscreteScheduler,
    folder: Path,
    kind: type[DiffusionPipeline] = StableDiffusionXLPipeline,
) -> None:
    """Write all parts of a model as a folder of diffusers' pipeline of this kind, in fp16."""
    # A tokenizer that has padded prompts is written with that padding, so new ones are written.
    tokenizer, tokenizer_2 = new_tokenizers()
    pipeline = kind(
        vae=vae,
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=model.unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    write_weights(pipeline.to(dtype=torch.float16), folder)


def load() -> tuple[AutoencoderKL, TextAndUNet]:
    """Load the VAE, and the text encoders with the UNet, of the committed tiny-sdxl, in float32."""
    model = TextAndUNet()
    parts = (
        (model.text_encoder, CLIPTextModel, "text_encoder"),
        (model.text_encoder_2, CLIPTextModelWithProjection, "text_encoder_2"),
        (model.unet, UNet2DConditionModel, "unet"),
    )
    for part, kind, subfolder in parts:
        part.load_state_dict(kind.from_pretrained(FOLDER, subfolder=subfolder, dtype=torch.float32).state_dict())
    # A VAE from `from_pretrained` itself would write the path of its folder into the config of a fine-tuned model.
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(FOLDER, subfolder="vae"))
    vae.load_state_dict(AutoencoderKL.from_pretrained(FOLDER, subfolder="vae", dtype=torch.float32).state_dict())
    return vae.to(DEVICE).requires_grad_(False), model.to(DEVICE)
