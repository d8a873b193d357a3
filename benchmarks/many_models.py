"""Benchmark of switching models: six base models on a budget that holds two, 300 requests in random order.

`python -m benchmarks.many_models` runs text encoding, denoising and decoding in one process, with 32 clients that
each send their next request when the last one is answered. The models are tiny-sdxl and five others made from it by
merging the zoo's LoRAs into its UNet. It prints

- how many images are right: above 60 dB against the image of the same request made alone;
- the most bytes of UNets and activations in memory at once against the budget, and by how much the process was larger
  at most than while the same clients asked for two models only, which the budget holds;
- how often a model was brought, and the throughput against that of the same requests sorted by model, in alternating
  rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import psutil
import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.denoising import RequestId
from atelier.core.params import GenerateParams
from atelier.families.unet.adapters.reading import read_adapter
from atelier.local.stages import local_stages
from atelier.models.loading import Placement, load_unet
from atelier.models.memory import Memory
from atelier.models.sources import unet_source
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.record import RequestRecord
from atelier.pipeline.stages import Pixels
from benchmarks.results import record
from tests.pictures import pixels_of

_CPU = Placement("cpu", "float32")
_LORAS = ("tiny-neon", "tiny-pastel", "tiny-outline", "tiny-checkerboard")
_NUM_IN_MEMORY, _NUM_CLIENTS = 2, 32
#: A little more than 32 rows of 128 × 128 pixels take besides the weights.
_BATCH_BYTES = 23_000_000
_PROMPTS = (
    "a red circle, white background",
    "a large blue star, yellow background",
    "a green ring, black background",
)
_MIN_PSNR_DB = 60.0
_WATCH_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = asyncio.run(_measure(Path(folder), rounds=options.rounds, num_requests=options.requests))
    record("many_models", numbers)


async def _measure(folder: Path, *, rounds: int, num_requests: int) -> dict[str, float | int]:
    catalogue = _write_models(folder)
    unet_bytes = unet_source(catalogue.models[0], _CPU).num_bytes()
    budget_bytes = _NUM_IN_MEMORY * unet_bytes + _BATCH_BYTES
    placement = Placement("cpu", "float32", Memory(device_bytes=budget_bytes))
    random = Random("many models")
    mixed = [_request(random, catalogue, seed) for seed in range(num_requests)]
    by_model = sorted(mixed, key=lambda params: str(params.model))
    async with local_stages(catalogue, placement=placement) as stages:
        pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=10**9))
        alone = {params.seed: await _image(pipeline, params) for params in mixed}
        two = {entry.id for entry in catalogue.models[:_NUM_IN_MEMORY]}
        async with _watched_memory() as of_two:
            await _all(pipeline, [params for params in mixed if params.model in two])
        taken_s: dict[str, list[float]] = {"mixed": [], "by model": []}
        num_right = num_brought = 0
        peak_bytes = 0
        for _ in range(rounds):
            for name, requests in (("mixed", mixed), ("by model", by_model)):
                start, start_s = stages.engine.memory(), time.perf_counter()
                async with _watched_memory() as watched:
                    images = await _all(pipeline, requests)
                taken_s[name].append(time.perf_counter() - start_s)
                peak_bytes = max(peak_bytes, watched.peak_bytes)
                if name == "mixed":
                    num_brought += stages.engine.memory().num_brought - start.num_brought
                    num_right += sum(
                        _psnr_db(image, alone[params.seed]) >= _MIN_PSNR_DB
                        for image, params in zip(images, requests, strict=True)
                    )
        peak_in_memory = stages.engine.memory().peak_device_bytes
    ratios = [by_model_s / mixed_s for mixed_s, by_model_s in zip(*taken_s.values(), strict=True)]
    return {
        "models": len(catalogue.models),
        "requests": rounds * num_requests,
        "right": num_right,
        "budget, MB": round(budget_bytes / 1e6, 1),
        "most in memory, MB": round(peak_in_memory / 1e6, 1),
        "process with two models, MB": round(of_two.peak_bytes / 1e6, 1),
        "process with six models, MB": round(peak_bytes / 1e6, 1),
        "models brought, per round": round(num_brought / rounds, 1),
        **{f"images/s, {name}": round(num_requests / statistics.median(s), 2) for name, s in taken_s.items()},
        "mixed against by model": round(statistics.median(ratios), 3),
    }


@dataclass
class _Watched:
    peak_bytes: int = 0


@asynccontextmanager
async def _watched_memory() -> AsyncIterator[_Watched]:
    """Record the largest resident set of this process while the context is open."""
    watched, process = _Watched(), psutil.Process()

    async def watch() -> None:
        while True:
            watched.peak_bytes = max(watched.peak_bytes, process.memory_info().rss)
            await asyncio.sleep(_WATCH_S)

    task = asyncio.create_task(watch())
    yield watched
    task.cancel()


def _write_models(folder: Path) -> Catalogue:
    """Write five models with LoRAs in their UNets; return the catalogue of these and tiny-sdxl."""
    zoo = read_catalogue()
    entry = zoo.model("tiny-sdxl")
    loras = zoo.only(["tiny-sdxl"], loras=None).loras
    styles = [(name,) for name in _LORAS] + [("tiny-outline", "tiny-checkerboard")]
    models = [entry]
    for names in styles:
        unet = load_unet(entry, _CPU)
        for name in names:
            _merge(unet, loras.file(name), name)
        models.append(_written(entry, "+".join(names), unet, folder))
    return Catalogue(models=tuple(models))


@torch.no_grad()
def _merge(unet: UNet2DConditionModel, file: Path, name: str) -> None:
    """Add a LoRA to the weights of a UNet."""
    for layer, change in read_adapter(file, name=name, modules={"unet": unet}).unet.items():
        weight = unet.get_submodule(layer).get_parameter("weight")
        weight += (change.up.flatten(1) @ change.down.flatten(1)).reshape(weight.shape)


def _written(entry: ModelEntry, name: str, unet: UNet2DConditionModel, folder: Path) -> ModelEntry:
    assert entry.files.folder is not None
    own = folder / name
    own.mkdir()
    for part in entry.files.folder.iterdir():
        if part.name != "unet":
            (own / part.name).symlink_to(part)
    unet.half().save_pretrained(own / "unet", safe_serialization=True)
    return entry.model_copy(update={"id": name, "files": Files(folder=own), "aliases": ()})


def _request(random: Random, catalogue: Catalogue, seed: int) -> GenerateParams:
    """Return a request for a random model; its seed is its own, so that no two share a generation."""
    return GenerateParams(model=random.choice(catalogue.models).id, prompt=random.choice(_PROMPTS), seed=seed)


async def _all(pipeline: Pipeline, requests: Sequence[GenerateParams]) -> list[Pixels]:
    """Send requests in their order, `_NUM_CLIENTS` at a time."""
    coming = iter(enumerate(requests))
    images: dict[int, Pixels] = {}

    async def client() -> None:
        for index, params in coming:
            images[index] = await _image(pipeline, params)

    await asyncio.gather(*(client() for _ in range(_NUM_CLIENTS)))
    return [images[index] for index in range(len(requests))]


async def _image(pipeline: Pipeline, params: GenerateParams) -> Pixels:
    """Return the pixels of a request's image."""
    result = await pipeline.generate(RequestRecord(request_id=RequestId("req"), endpoint="benchmark"), params)
    return pixels_of(result.pictures[0].data)


def _psnr_db(image: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two images."""
    error = np.square(image.astype(np.float64) - other).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


if __name__ == "__main__":
    main()
