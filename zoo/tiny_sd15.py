"""The recipe of tiny-sd15: train it beside tiny-sdxl's VAE, and write a folder that diffusers and the server load."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline

from zoo import tiny_sdxl
from zoo.noise import new_scheduler
from zoo.sd15 import train_text_and_unet
from zoo.training import WEIGHTS_FOLDER, delete_states, write_weights

FOLDER = WEIGHTS_FOLDER / "tiny-sd15"


def make() -> None:
    """Train tiny-sd15 from the committed tiny-sdxl (resuming an interrupted run) and write safetensors in fp16."""
    vae, start = tiny_sdxl.load()
    # diffusers would write the folder that the VAE came from.
    vae.register_to_config(_name_or_path="tiny-sdxl")
    model = train_text_and_unet(vae, start)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    write_weights(pipeline.to(dtype=torch.float16), FOLDER)
    delete_states("sd15")
