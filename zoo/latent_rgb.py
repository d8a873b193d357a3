"""`python -m zoo.latent_rgb`: print each VAE's `latent_rgb` for the catalogue, the projection that previews use."""

from __future__ import annotations

import sys
from random import Random

import torch
from diffusers import AutoencoderKL

from zoo.dataset import random_training_description
from zoo.report import TINY_PONY, TINY_SDXL, load_pipeline
from zoo.scenes import Palette, arrange, draw
from zoo.vae import to_tensor

_NUM_IMAGES, _BATCH = 320, 16


@torch.inference_mode()
def latent_rgb(vae: AutoencoderKL, palette: Palette) -> torch.Tensor:
    """Fit the linear latent-to-RGB projection, [5, 3]: four rows of weights, one per latent channel, and a bias row.

    The fit is by least squares, to the mean colour, −1 … 1, of each latent position's 8 × 8 pixels.
    """
    random = Random("latent rgb")
    latents, colours = [], []
    for _ in range(_NUM_IMAGES // _BATCH):
        scenes = [arrange(random_training_description(random), random, width=128, height=128) for _ in range(_BATCH)]
        images = torch.cat([to_tensor(draw(scene, palette)) for scene in scenes])
        encoded = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
        latents.append(encoded.permute(0, 2, 3, 1).reshape(-1, 4))
        colours.append(torch.nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1).reshape(-1, 3))
    known = torch.cat(latents)
    known_and_one = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    solution: torch.Tensor = torch.linalg.lstsq(known_and_one, torch.cat(colours)).solution
    return solution


if __name__ == "__main__":
    for model in (TINY_SDXL, TINY_PONY):
        sys.stdout.write(f"{model.folder.name}\n")
        for row in latent_rgb(load_pipeline(model).vae, model.palette).tolist():
            sys.stdout.write(f"- [{', '.join(f'{value:.4f}' for value in row)}]\n")
