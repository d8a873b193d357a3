"""A small decoder that shows what latents will become: TAESD's architecture, diffusers' AutoencoderTiny."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from atelier.catalogue.entries import Files
from atelier.core.conditioning import Floats
from atelier.models.autoencoder import Pixels
from atelier.models.loading import DtypeName, Placement, load_preview_decoder
from atelier.models.programs import TRACING, run, traced

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

#: Longest side of a preview in pixels; larger ones are reduced before they leave the device.
MAX_SIDE_PX = 512
#: Maximum number of pixels of the latents that are decoded in one call, unless a single image has more.
_MAX_LATENT_PIXELS = 64 * 64
#: Shape of the latents that decoders are traced and measured with.
_EXAMPLE = (4, 4, 16, 16)
_NUM_MEASURED = 5


class PreviewDecoder:
    """The preview decoder of one model. Not thread-safe: used from one thread."""

    def __init__(self, model: str, files: Files, placement: Placement) -> None:
        """Load the decoder of the model with this id, and warm it up.

        On the CPU it runs in bfloat16 if that is faster there. Raises ModelUnavailable if files are missing or
        corrupt.
        """
        self._device = placement.device
        dtypes: tuple[DtypeName, ...] = (placement.dtype_name, "bfloat16")
        kinds = [Placement(placement.device, name) for name in (dtypes if self._device == "cpu" else dtypes[:1])]
        decoders = [_new_decode(load_preview_decoder(model, files, kind), kind) for kind in kinds]
        self._decode = min(decoders, key=lambda decode: _seconds_of(partial(decode, np.zeros(_EXAMPLE, np.float32))))

    @torch.inference_mode()
    def decode(self, latents: Floats) -> Pixels:
        """Decode latents [images, 4, height / 8, width / 8], several small images at a time.

        Returns [images, height, width, 3] as large as the decoder makes them, eight times the latents' sides or less,
        and reduced so that no side is longer than `MAX_SIDE_PX`.
        """
        num_together = max(1, _MAX_LATENT_PIXELS // latents[0, 0].size)
        starts = range(0, len(latents), num_together)
        images = torch.cat([_reduced(self._decode(latents[start : start + num_together])) for start in starts])
        unit = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        pixels: Pixels = (unit.float() * 255).round().to(torch.uint8).cpu().contiguous().numpy()
        return pixels


class _Decoder(torch.nn.Module):
    def __init__(self, decoder: AutoencoderTiny) -> None:
        super().__init__()
        self._decoder = decoder

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self._decoder.decode(latents).sample
        return images


@torch.inference_mode()
def _new_decode(decoder: AutoencoderTiny, placement: Placement) -> Callable[[Floats], torch.Tensor]:
    """Return a function that decodes latents; on the CPU without Python, which other threads need meanwhile."""
    module = _Decoder(decoder.to(memory_format=torch.channels_last))
    call: Callable[[torch.Tensor], torch.Tensor] = module
    if placement.device == "cpu":
        example = torch.zeros(_EXAMPLE, dtype=placement.dtype)
        call = partial(run, TRACING.submit(torch.inference_mode()(traced), module, (example,)).result())
    return lambda latents: call(torch.tensor(latents).to(placement.device, placement.dtype))


@torch.inference_mode()
def _seconds_of(call: Callable[[], object]) -> float:
    """Return the least time that a call has taken."""
    times_s = []
    for _ in range(_NUM_MEASURED):
        start_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)


def _reduced(images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    scale = MAX_SIDE_PX / max(height, width)
    if scale >= 1:
        return images
    return torch.nn.functional.interpolate(images, size=(round(height * scale), round(width * scale)), mode="area")
