"""Benchmark of few steps: images per second of tiny-sdxl-lightning relative to tiny-sdxl.

`python -m benchmarks.few_steps` sends 16 requests at once to the pipeline in this process, with the defaults of each
model: four steps of one row per image, or 20 steps of two. The time includes the text encoders, the denoising engine,
the VAE and the PNG files, but no HTTP. The models take turns, and every round has new captions.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from random import Random

from atelier.catalogue.catalogue import read_catalogue
from atelier.core.denoising import RequestId
from atelier.core.params import GenerateParams, parse
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.record import RequestRecord
from benchmarks.results import record
from zoo.captions import canonical
from zoo.dataset import random_training_description

_TEACHER, _STUDENT = "tiny-sdxl", "tiny-sdxl-lightning"
_REQUESTS = 16


async def _draw_s(pipeline: Pipeline, model: str, random: Random) -> float:
    """Return the seconds until 16 images, requested at once, are all there."""
    requests = [
        parse(
            GenerateParams, {"prompt": canonical(random_training_description(random)), "model": model, "seed": seed}
        )
        for seed in range(_REQUESTS)
    ]
    start_s = time.perf_counter()
    await asyncio.gather(
        *(
            pipeline.generate(RequestRecord(request_id=RequestId(f"req_{number}"), endpoint="benchmark"), request)
            for number, request in enumerate(requests)
        )
    )
    return time.perf_counter() - start_s


async def _measure(pipeline: Pipeline, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round by model, after one round of each that is not counted."""
    taken_s: dict[str, list[float]] = {_TEACHER: [], _STUDENT: []}
    for number in range(rounds + 1):
        for model, so_far in taken_s.items():
            taken = await _draw_s(pipeline, model, Random(number))
            if number > 0:
                so_far.append(taken)
    return taken_s


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_steps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    catalogue = read_catalogue().only([_TEACHER, _STUDENT])
    stages = LocalStages(catalogue)
    taken_s = asyncio.run(_measure(Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=40_000_000)), rounds))
    stages.close()
    ratios = [slow / fast for slow, fast in zip(taken_s[_TEACHER], taken_s[_STUDENT], strict=True)]
    numbers: dict[str, float | int] = {"rounds": rounds}
    for model, seconds in taken_s.items():
        numbers[f"{model}, images/s"] = round(_REQUESTS / statistics.median(seconds), 2)
    numbers["ratio of images/s, median of rounds"] = round(statistics.median(ratios), 2)
    numbers["ratio, lowest"], numbers["ratio, highest"] = round(min(ratios), 2), round(max(ratios), 2)
    record("few_steps", numbers)


if __name__ == "__main__":
    main()
