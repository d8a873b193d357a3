"""Autoencoder: the VAE of every model, one call at a time."""

from __future__ import annotations

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Floats
from atelier.core.origin import Origin
from atelier.pipeline.stages import DecodedLatents, EncodedLatents, Pixels
from deployments.options import AutoencoderOptions
from deployments.replica import Replica


class Autoencoder(Replica):
    """The deployment that turns images into latents and latents into images."""

    def __init__(self, catalogue: Catalogue, options: AutoencoderOptions) -> None:
        """Load the VAEs. Raises ModelUnavailable if a model's files are missing or corrupt."""
        from atelier.local.images import AutoencoderStage
        from atelier.models.allocator import keep_freed_memory

        super().__init__("autoencoder", options)
        keep_freed_memory()
        self._stage = AutoencoderStage(catalogue, self._runtime)

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        """Encode images [images, height, width, 3] by the model's VAE."""
        return await self._stage.encode_latents(model, pixels)

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        """Decode latents [images, 4, h, w] by the model's VAE."""
        return await self._stage.decode_latents(model, latents)

    async def load_model(self, model: str) -> bool:
        """Bring a model into memory, and return True. Raises ModelUnavailable."""
        return await self._stage.load_model(model)

    async def unload_model(self, model: str) -> bool:
        """Take a model out of memory; return whether it is still there, because it is used."""
        return await self._stage.unload_model(model)

    async def origin(self) -> Origin:
        """Return this replica's placement, and the weights of all its models."""
        return self._stage.origin()
