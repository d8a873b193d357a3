"""Benchmark of the memory levels on the CPU: what each has in memory, and what that costs.

`python -m benchmarks.memory` draws one image of tiny-sdxl at every level, with text encoders, UNet and VAE in one
ModelHost as on one card. It prints for each level

- the most bytes of weights at once;
- the most bytes of activations at once while the VAE decodes, of tensors that the level leaves in host memory too,
  and without them; buffers inside of PyTorch's operations are not seen;
- the time of a step relative to `none`, median of alternating rounds;
- whether the latents have the bits of `none`;

and how much an image that the VAE decodes in tiles differs from the one decoded whole.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Conditioning, Floats, Text
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.engine.engine import Engine
from atelier.engine.runners import load_runners
from atelier.families.sdxl.text import TextEncoders
from atelier.models.autoencoder import Autoencoder, Pixels
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.memory import Memory, MemoryLevel
from atelier.models.tiled_vae import Tiling
from benchmarks.results import record
from tests.engines import SETTINGS, run_together

if TYPE_CHECKING:
    from torch._ops import OpOverload

_LEVELS: Sequence[MemoryLevel] = get_args(MemoryLevel)
_SIZE, _NUM_STEPS = Size(width=256, height=256), 8
_TILING = Tiling(tile_px=64, max_whole_pixels=128 * 128)
_HOST_BYTES = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    entry = read_catalogue().model("tiny-sdxl")
    graphs = {level: _Graph(entry, level) for level in _LEVELS}
    request = _request(entry, graphs["none"])
    taken_s: dict[MemoryLevel, list[float]] = {level: [] for level in _LEVELS}
    for _ in range(options.rounds):
        for level, graph in graphs.items():
            start_s = time.perf_counter()
            graph.denoise(request)
            taken_s[level].append((time.perf_counter() - start_s) / _NUM_STEPS)
    measured = {level: _measure(graph, request) for level, graph in graphs.items()}
    for graph in graphs.values():
        graph.engine.close()
    record("memory", _numbers(measured, taken_s))


class _Graph:
    """Text encoders, UNet and VAE of one model on one device."""

    def __init__(self, entry: ModelEntry, level: MemoryLevel) -> None:
        placement = Placement("cpu", "float32", Memory(level=level, host_bytes=_HOST_BYTES))
        self.host = ModelHost(placement)
        self.encoders = TextEncoders(entry, placement, self.host)
        self.autoencoder = Autoencoder(entry, placement, self.host, tiling=_TILING)
        self.engine = Engine(lambda: load_runners([entry], placement, host=self.host), SETTINGS, place="here")

    def denoise(self, request: DenoiseRequest) -> Floats:
        [latents] = run_together(self.engine, [request])
        return latents


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    weights_bytes: int
    activations_bytes: int
    device_activations_bytes: int
    latents: Floats
    pixels: Pixels


def _measure(graph: _Graph, request: DenoiseRequest) -> _Measured:
    latents = graph.denoise(request)
    with _LiveBytes() as live:
        pixels = graph.autoencoder.decode_latents(latents)
    return _Measured(
        weights_bytes=graph.host.status().peak_device_bytes,
        activations_bytes=live.peak_bytes,
        device_activations_bytes=live.peak_device_bytes,
        latents=latents,
        pixels=pixels,
    )


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations of this thread make, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = self.peak_device_bytes = 0
        #: By the storage: a weak reference, the number of bytes, and whether it stands for host memory.
        self._live: dict[int, tuple[StorageWeakRef, int, bool]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        results = func(*args, **(kwargs or {}))
        # Only the activations that stay in host memory are made without a value.
        is_in_host = func is torch.ops.aten.empty.memory_format
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes(), is_in_host))
        self._live = {key: of for key, of in self._live.items() if not of[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(num_bytes for _, num_bytes, _ in self._live.values()))
        on_device = sum(num_bytes for _, num_bytes, is_in_host in self._live.values() if not is_in_host)
        self.peak_device_bytes = max(self.peak_device_bytes, on_device)
        return results


def _request(entry: ModelEntry, graph: _Graph) -> DenoiseRequest:
    [embeds] = graph.encoders.encode([Text("a red circle", "a red circle")])
    return DenoiseRequest(
        request_id=RequestId("benchmark"),
        pass_=Pass(
            model=entry.id,
            size=_SIZE,
            seeds=(0,),
            sampling=Sampling(num_inference_steps=_NUM_STEPS),
            guidance_scale=5.0,
            reproducibility="exact",
        ),
        conditioning=Conditioning(positive=embeds, negative=None),
    )


def _numbers(
    measured: Mapping[MemoryLevel, _Measured], taken_s: Mapping[MemoryLevel, Sequence[float]]
) -> dict[str, float | int]:
    numbers: dict[str, float | int] = {}
    whole = measured["none"]
    for level, of_level in measured.items():
        ratios = [s / none_s for s, none_s in zip(taken_s[level], taken_s["none"], strict=True)]
        numbers |= {
            f"{level}: weights, MB": round(of_level.weights_bytes / 1e6, 2),
            f"{level}: activations of the VAE, MB": round(of_level.activations_bytes / 1e6, 2),
            f"{level}: of these on the device, MB": round(of_level.device_activations_bytes / 1e6, 2),
            f"{level}: step, ms": round(1000 * statistics.median(taken_s[level]), 1),
            f"{level}: step relative to none": round(statistics.median(ratios), 2),
            f"{level}: latents have the bits of none": int(np.array_equal(of_level.latents, whole.latents)),
        }
    tiled = measured["aggressive"]
    borders = range(_TILING.tile_px, _SIZE.height, _TILING.tile_px)
    return numbers | {
        "tiled VAE: PSNR, dB": round(_psnr_db(tiled.pixels, whole.pixels), 1),
        "tiled VAE: steps at seams relative to whole": round(
            _step_at(borders, tiled.pixels) / _step_at(borders, whole.pixels), 4
        ),
    }


def _psnr_db(images: Pixels, others: Pixels) -> float:
    """Return the peak signal-to-noise ratio of images; equal ones have 138 dB."""
    error = np.square(images.astype(np.float64) - others).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _step_at(borders: Sequence[int], images: Pixels) -> float:
    """Return the mean absolute difference of neighbouring pixels across rows and columns, [images, h, w, 3]."""
    values = images.astype(np.float64)
    rows = [np.abs(values[:, border] - values[:, border - 1]).mean() for border in borders]
    columns = [np.abs(values[:, :, border] - values[:, :, border - 1]).mean() for border in borders]
    return float(np.mean(rows + columns))


if __name__ == "__main__":
    main()
