"""The recipe of tiny-sdxl: train every part, then write all parts as a folder that diffusers and the server load."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionXLPipeline

from zoo.dataset import latent_scaling_factor
from zoo.sdxl import new_scheduler, train_text_and_unet
from zoo.training import WEIGHTS_FOLDER, delete_states, write_weights
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
