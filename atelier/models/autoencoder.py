"""The VAE as two functions: pixels to latents, latents to pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Floats
from atelier.core.geometry import PIXELS_PER_LATENT
from atelier.models.hashes import weights_hash
from atelier.models.loading import Placement, load_vae

Pixels = npt.NDArray[np.uint8]  # [images, height, width, 3]


class Autoencoder:
    """The VAE of one model. Not thread-safe: used from one thread."""

    def __init__(self, entry: ModelEntry, placement: Placement) -> None:
        self._vae = load_vae(entry, placement)
        self._placement = placement
        self.weights_hash = weights_hash(self._vae, settings=self._vae.config)
        size = entry.defaults.size
        channels: int = self._vae.config.latent_channels
        shape = (1, channels, size.height // PIXELS_PER_LATENT, size.width // PIXELS_PER_LATENT)
        self.encode(self.decode(np.zeros(shape, dtype=np.float32)))

    @torch.inference_mode()
    def encode(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the posterior, each [images, 4, h/8, w/8], as the UNet scales them."""
        images = torch.tensor(pixels).permute(0, 3, 1, 2)
        images = images.to(self._placement.device, self._placement.dtype) / 127.5 - 1
        posterior = self._vae.encode(images).latent_dist
        scale: float = self._vae.config.scaling_factor
        return (posterior.mean * scale).float().cpu().numpy(), (posterior.std * scale).float().cpu().numpy()

    @torch.inference_mode()
    def decode(self, latents: Floats) -> Pixels:
        """Final latents [images, 4, h/8, w/8] to pixels, rounded as diffusers' `VaeImageProcessor` does.

        One image at a time, so that the bits of an image do not depend on how many come with it.
        """
        scaled = torch.tensor(latents, device=self._placement.device, dtype=self._placement.dtype)
        scaled = scaled / self._vae.config.scaling_factor
        images = torch.cat([self._vae.decode(image).sample for image in scaled.split(1)])
        unit = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        pixels: Pixels = (unit.float() * 255).round().to(torch.uint8).cpu().numpy()
        return pixels
