"""A model of SDXL base 1.0's real size: the architecture of its published configs, with random weights."""

from __future__ import annotations

import datetime
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ControlNetEntry, Defaults, Files, ModelEntry, Sides
from atelier.core.geometry import Size
from atelier.models.loading import Placement

_ID, _CONTROLNET = "sdxl-size", "sdxl-size-canny"


def new_unet() -> UNet2DConditionModel:
    """Create the UNet, 2.567 G parameters, on the device and in the precision that are PyTorch's defaults.

    Source: stabilityai/stable-diffusion-xl-base-1.0, unet/config.json.
    """
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ).eval()


def new_vae() -> AutoencoderKL:
    """Create the VAE, 83.7 M parameters. Source: the same repository, vae/config.json."""
    return AutoencoderKL(
        sample_size=1024,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.13025,
    ).eval()


def new_scheduler() -> EulerDiscreteScheduler:
    """Create the scheduler. Source: the same repository, scheduler/scheduler_config.json."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )


def write_catalogue(folder: Path, placement: Placement) -> Catalogue:
    """Write the model with one ControlNet under `folder`, about 8 GB in half precision, and return their catalogue.

    Weights are made on the placement's device, because that is fast.
    """
    torch.manual_seed(0)
    with torch.device(placement.device):
        unet, vae = new_unet().to(placement.dtype), new_vae().to(placement.dtype)
        controlnet = ControlNetModel.from_unet(unet).to(placement.dtype)
    for part, name in ((unet, "unet"), (vae, "vae"), (new_scheduler(), "scheduler"), (controlnet, _CONTROLNET)):
        part.save_pretrained(folder / name)
    size = Size(width=1024, height=1024)
    model = ModelEntry(
        id=_ID,
        description="SDXL base 1.0's architecture with random weights",
        owned_by="atelier",
        created=datetime.date(2026, 12, 1),
        licence="Apache-2.0",
        files=Files(folder=folder),
        sides_px=Sides(min=512, max=2048),
        defaults=Defaults(size=size, num_inference_steps=30, guidance_scale=5.0),
    )
    control = ControlNetEntry(
        id=_CONTROLNET,
        description="a ControlNet with random weights",
        licence="Apache-2.0",
        files=Files(folder=folder / _CONTROLNET),
        base=_ID,
        kind="canny",
        scale=1.0,
    )
    return Catalogue(models=(model,), controlnets=(control,))
