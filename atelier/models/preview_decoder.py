"""A small decoder that shows what latents will become: TAESD's architecture, diffusers' AutoencoderTiny."""

from __future__ import annotations

import numpy as np
import torch

from atelier.catalogue.entries import Files
from atelier.core.conditioning import Floats
from atelier.models.autoencoder import Pixels
from atelier.models.loading import Placement, load_preview_decoder

#: Longest side of a preview in pixels; larger ones are reduced before they leave the device.
MAX_SIDE_PX = 512


class PreviewDecoder:
    """The preview decoder of one model. Not thread-safe: used from one thread."""

    def __init__(self, model: str, files: Files, placement: Placement) -> None:
        """Load the decoder of the model with this id and warm it up.

        Raises ModelUnavailable if files are missing or corrupt.
        """
        decoder = load_preview_decoder(model, files, placement)
        self._decoder = decoder.to(memory_format=torch.channels_last)
        self._placement = placement
        self.decode(np.zeros((1, self._decoder.config.latent_channels, 16, 16), dtype=np.float32))

    @torch.inference_mode()
    def decode(self, latents: Floats) -> Pixels:
        """Decode latents [images, 4, height / 8, width / 8], one image at a time.

        Returns [images, height, width, 3] as large as the decoder makes them, eight times the latents' sides or less,
        and reduced so that no side is longer than `MAX_SIDE_PX`.
        """
        inputs = torch.tensor(latents).to(self._placement.device, self._placement.dtype)
        images = torch.cat([self._reduced(self._decoder.decode(image).sample) for image in inputs.split(1)])
        unit = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        pixels: Pixels = (unit.float() * 255).round().to(torch.uint8).cpu().contiguous().numpy()
        return pixels

    @staticmethod
    def _reduced(image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        scale = MAX_SIDE_PX / max(height, width)
        if scale >= 1:
            return image
        return torch.nn.functional.interpolate(image, size=(round(height * scale), round(width * scale)), mode="area")
