"""The throughput of the model alone on this machine: the best of everything that was measured.

UNet calls are timed with 8, 16 and 32 rows, in channels-last format: by diffusers' own forward, with the prompts'
keys and values kept, and so without Python. VAE decodes are timed for 1, 4 and 8 images, in both formats. Rows and
images are computed by all cores together, and divided among cores that work side by side. The fastest of each counts:
no server can be faster, because it does the same work and more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import torch

from atelier.catalogue.catalogue import read_catalogue
from atelier.core.geometry import Size
from atelier.engine.side_by_side import SideBySide
from atelier.families import sdxl
from atelier.families.family import Conditions
from atelier.models.allocator import keep_freed_memory
from atelier.models.loading import Placement, load_unet, load_vae

_CPU = Placement("cpu", "float32")
_ROWS, _IMAGES = (8, 16, 32), (1, 4, 8)
_REPETITIONS = 8

Call = Callable[[int, Size], object]


class Ceiling:
    """Times of a row and of a decoded image, each in the fastest way."""

    def __init__(self, *, num_threads: int) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(num_threads,))
        self._side_by_side, self._num_threads = SideBySide(num_threads), num_threads
        self._unets, self._decoders = self._thread.submit(_load).result()

    def row_s(self, size: Size) -> float:
        """Time of one row in a UNet call for images of this size, in seconds."""
        return self._fastest_s(self._unets, _ROWS, size)

    def decode_s(self, size: Size) -> float:
        """Time of decoding one image of this size, in seconds."""
        return self._fastest_s(self._decoders, _IMAGES, size)

    def _fastest_s(self, calls: list[Call], counts: tuple[int, ...], size: Size) -> float:
        return min(self._seconds(call, count, size) / count for call in calls for count in counts)

    def _seconds(self, call: Call, count: int, size: Size) -> float:
        together_s = self._thread.submit(_median_s, partial(call, count, size)).result()
        if count % self._num_threads:
            return together_s
        part = partial(call, count // self._num_threads, size)
        return min(together_s, max(self._side_by_side.map([partial(_median_s, part)] * self._num_threads)))


def _load() -> tuple[list[Call], list[Call]]:
    keep_freed_memory()
    entry = read_catalogue().model("tiny-sdxl")
    plain, keeping = (load_unet(entry, _CPU).to(memory_format=torch.channels_last) for _ in range(2))
    sdxl.install(keeping)
    decoders = [load_vae(entry, _CPU), load_vae(entry, _CPU).to(memory_format=torch.channels_last)]
    embeds = sdxl.zero_embeds(keeping)

    @cache
    def conditions(count: int, size: Size) -> Conditions:
        return sdxl.stack([sdxl.prompt_conditions(keeping, embeds, _CPU)] * count, [size] * count)

    def by_diffusers(count: int, size: Size) -> object:
        return plain(
            sample=_latents(count, size),
            timestep=torch.full((count,), 500.0),
            encoder_hidden_states=torch.from_numpy(embeds.prompt_embeds).expand(count, -1, -1),
            added_cond_kwargs={
                "text_embeds": torch.from_numpy(embeds.pooled_prompt_embeds).expand(count, -1),
                "time_ids": torch.zeros(count, 6),
            },
        )

    def keeping_prompts(count: int, size: Size) -> object:
        kept = conditions(count, size)
        encoded = sdxl.encode_half(keeping, _latents(count, size), torch.full((count,), 500.0), kept)
        return sdxl.decode_half(keeping, encoded, kept)

    traced = sdxl.trace(keeping, _CPU)

    def without_python(count: int, size: Size) -> object:
        kept = conditions(count, size)
        encoded = traced.encode_half(_latents(count, size), torch.full((count,), 500.0), kept)
        return traced.decode_half(encoded, kept)

    def decode(vae: torch.nn.Module, count: int, size: Size) -> object:
        return vae.decode(_latents(count, size))  # type: ignore[operator]

    return [by_diffusers, keeping_prompts, without_python], [partial(decode, vae) for vae in decoders]


def _latents(count: int, size: Size) -> torch.Tensor:
    return torch.zeros(count, 4, size.latent_height, size.latent_width)


@torch.inference_mode()
def _median_s(call: Callable[[], object]) -> float:
    call()
    taken_s = []
    for _ in range(_REPETITIONS):
        start_s = time.perf_counter()
        call()
        taken_s.append(time.perf_counter() - start_s)
    return statistics.median(taken_s)
