"""Autoencoder: the VAE of every model, one call at a time in its own thread."""

from __future__ import annotations

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Floats
from atelier.core.origin import Origin
from atelier.pipeline.stages import Decoded, EncodedPictures, Pixels
from deployments.options import AutoencoderOptions


class Autoencoder:
    def __init__(self, catalogue: Catalogue, options: AutoencoderOptions) -> None:
        from atelier.models.autoencoder import Autoencoder as Model
        from atelier.models.hashes import place_hash
        from atelier.models.thread import ModelThread
        from deployments.accelerator import placement

        place = placement(options)
        self._stall_s = options.stall_s
        self._thread = ModelThread("autoencoder", num_threads=options.num_threads)
        self._place = place_hash(place, num_threads=options.num_threads, width=1)
        self._models = self._thread.run(lambda: {entry.id: Model(entry, place) for entry in catalogue.models})

    async def encode(self, model: str, pixels: Pixels) -> EncodedPictures:
        mean, std = await self._thread.run_async(lambda: self._models[model].encode(pixels))
        return EncodedPictures(mean, std, self._origin(model))

    async def decode(self, model: str, latents: Floats) -> Decoded:
        pixels = await self._thread.run_async(lambda: self._models[model].decode(latents))
        return Decoded(pixels, self._origin(model))

    def _origin(self, model: str) -> Origin:
        return Origin(self._place, {f"{model}/vae": self._models[model].weights_hash})

    async def ping(self) -> None:
        """Answers when the replica is alive."""

    def check_health(self) -> None:
        self._thread.check(stall_s=self._stall_s)
