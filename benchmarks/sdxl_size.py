"""Modules of SDXL base 1.0's architecture, from the numbers of its published configs; the weights are random."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel


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
