"""The VAE as two functions: from pixels to latents, and from latents to pixels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Floats
from atelier.core.geometry import PIXELS_PER_LATENT
from atelier.models.hashes import weights_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.programs import TRACING, run, traced
from atelier.models.sources import vae_source
from atelier.models.tiled_vae import TiledVae, Tiling

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_DEFAULT_TILING = Tiling()
#: Latent height and width of the example that the decoder is traced with.
_EXAMPLE_SIDE = 16

Pixels = npt.NDArray[np.uint8]  # [images, height, width, 3]


class Autoencoder:
    """The VAE of one model. Not thread-safe: used from one thread."""

    def __init__(
        self,
        entry: ModelEntry,
        placement: Placement,
        host: ModelHost | None = None,
        *,
        tiling: Tiling = _DEFAULT_TILING,
    ) -> None:
        """Load the VAE and warm it up at the model's default size; it belongs to `host`, by default one of its own.

        `tiling` says how images are cut at the memory level `aggressive`. Raises ModelUnavailable if files are
        missing or corrupt.
        """
        host = host or ModelHost(placement)
        self._vae = host.add(f"{entry.id}/vae", vae_source(entry, placement))
        self._placement = placement
        self._tiling = tiling if placement.memory.is_tiled else None
        size = entry.defaults.size
        #: Decodes a whole image [1, 4, h, w] on the CPU without Python, which takes a fifth of the zoo's VAE's time.
        self._program: torch.jit.ScriptModule | None = None
        with self._vae.lease() as vae:
            if placement.device == "cpu":
                self._program = TRACING.submit(_traced_decoder, vae, placement).result()
            of_tiles = {} if self._tiling is None else asdict(self._tiling)
            #: The factor by which the UNet's latents are scaled.
            self.scaling_factor: float = vae.config.scaling_factor
            self.weights_hash = weights_hash(vae, settings={**vae.config, **of_tiles})
            shape = (1, vae.config.latent_channels, size.latent_height, size.latent_width)
            self.encode_latents(self.decode_latents(np.zeros(shape, dtype=np.float32)))

    def bring(self) -> None:
        """Bring the weights to the device."""
        self._vae.bring()

    def unload(self) -> bool:
        """Take the weights out of memory; return whether they are still there, because they are used."""
        return self._vae.unload()

    @torch.inference_mode()
    def encode_latents(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """Encode images [images, height, width, 3], whose sides are multiples of 8.

        Returns mean and standard deviation of the posterior, each [images, 4, height / 8, width / 8], in the scale of
        the UNet's latents. The VAE's own results are channels-last; later stages would give other bits for them.
        """
        images = torch.tensor(pixels).permute(0, 3, 1, 2)
        images = images.to(self._placement.device, self._placement.dtype) / 127.5 - 1
        with self._vae.lease() as vae:
            tiled = self._tiled(vae, *pixels.shape[1:3])
            posterior = vae.encode(images).latent_dist if tiled is None else tiled.encode(images)
        mean, std = (
            (moment * self.scaling_factor).float().cpu().contiguous() for moment in (posterior.mean, posterior.std)
        )
        return mean.numpy(), std.numpy()

    @torch.inference_mode()
    def decode_latents(self, latents: Floats) -> Pixels:
        """Decode latents [images, 4, height / 8, width / 8], rounding pixels as diffusers' `VaeImageProcessor` does.

        Images are decoded one at a time, so that the bits of an image do not depend on how many there are.
        """
        scaled = torch.tensor(
            np.ascontiguousarray(latents), device=self._placement.device, dtype=self._placement.dtype
        )
        scaled = scaled / self.scaling_factor
        with self._vae.lease() as vae:
            images = torch.cat([self._decoded(vae, latent) for latent in scaled.split(1)])
        unit = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        pixels: Pixels = (unit.float() * 255).round().to(torch.uint8).cpu().contiguous().numpy()
        return pixels

    def _decoded(self, vae: AutoencoderKL, latent: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents [1, 4, h, w] to [1, 3, height, width], −1 … 1."""
        tiled = self._tiled(vae, *(side * PIXELS_PER_LATENT for side in latent.shape[2:]))
        if tiled is not None:
            return tiled.decode(latent)
        image: torch.Tensor = vae.decode(latent).sample if self._program is None else run(self._program, latent)
        return image

    def _tiled(self, vae: AutoencoderKL, height: int, width: int) -> TiledVae | None:
        """Return the VAE over tiles for images of more pixels than may be whole; None for others."""
        tiling = self._tiling
        if tiling is None or height * width <= tiling.max_whole_pixels:
            return None
        return TiledVae(vae, self._placement.device, tiling.tile_px)


class _Decoder(torch.nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self._vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self._vae.decode(latents).sample
        return image


@torch.inference_mode()
def _traced_decoder(vae: AutoencoderKL, placement: Placement) -> torch.jit.ScriptModule:
    shape = (1, vae.config.latent_channels, _EXAMPLE_SIDE, _EXAMPLE_SIDE)
    return traced(_Decoder(vae), (torch.zeros(shape, dtype=placement.dtype),))
