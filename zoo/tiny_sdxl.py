"""The recipe of tiny-sdxl: train every part, then write all parts as a folder that diffusers and the server load."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from zoo.dataset import latent_scaling_factor
from zoo.noise import new_scheduler
from zoo.sdxl import TextAndUNet, train_text_and_unet
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, write_weights
from zoo.vae import train_vae

FOLDER = WEIGHTS_FOLDER / "tiny-sdxl"


def make() -> None:
    """Train all parts of tiny-sdxl from scratch (resuming an interrupted run) and write safetensors in fp16."""
    vae = train_vae().requires_grad_(False)
    vae.register_to_config(scaling_factor=latent_scaling_factor(vae))
    model = train_text_and_unet(vae)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        tokenizer=model.tokenizer,
        tokenizer_2=model.tokenizer_2,
        unet=model.unet,
        scheduler=new_scheduler(),
        add_watermarker=False,
    )
    write_weights(pipeline.to(dtype=torch.float16), FOLDER)
    delete_states("vae", "vae-decoder", "sdxl", "sdxl-refined")


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
    vae = AutoencoderKL.from_pretrained(FOLDER, subfolder="vae", dtype=torch.float32)
    return vae.to(DEVICE).requires_grad_(False), model.to(DEVICE)
