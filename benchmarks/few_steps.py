"""Benchmark of few steps: images per second of tiny-sdxl-lightning relative to tiny-sdxl.

`python -m benchmarks.few_steps` sends 16 requests at once to the pipeline in this process, with the defaults of each
model: four steps of one row per image, or 20 steps of two. The time includes the text encoders, the denoising engine,
the VAE and the PNG files, but no HTTP. Then it sends 16 to the denoising engine alone. The models take turns, and
every round has new captions.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from random import Random

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Prompts, Text
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.params import GenerateParams, parse
from atelier.core.sampling import Sampling
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.record import RequestRecord
from benchmarks.results import record
from tests.engines import run_together
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


async def _denoise_s(stages: LocalStages, entry: ModelEntry, random: Random) -> float:
    """Return the seconds until the denoising engine has the latents of 16 images, requested at once."""
    defaults = entry.defaults
    requests = []
    for seed in range(_REQUESTS):
        caption = canonical(random_training_description(random))
        encoded = await stages.encode_texts(entry.id, Prompts(positive=Text(caption, caption), negative=None), "fast")
        pass_ = Pass(
            model=entry.id,
            size=defaults.size,
            seeds=(seed,),
            sampling=Sampling(
                num_inference_steps=defaults.num_inference_steps, sampler=defaults.sampler, schedule=defaults.schedule
            ),
            guidance_scale=defaults.guidance_scale,
        )
        requests.append(
            DenoiseRequest(request_id=RequestId(f"req_{seed}"), pass_=pass_, conditioning=encoded.conditioning)
        )
    start_s = time.perf_counter()
    await asyncio.to_thread(run_together, stages.engine, requests)
    return time.perf_counter() - start_s


async def _measure(stages: LocalStages, catalogue: Catalogue, rounds: int) -> dict[str, float | int]:
    """Take rounds in turn, after one that is not counted."""
    pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=40_000_000))
    models = [catalogue.model(name) for name in (_TEACHER, _STUDENT)]
    whole_s, denoise_s = [list[list[float]]() for _ in range(2)]
    for number in range(rounds + 1):
        whole_s.append([await _draw_s(pipeline, entry.id, Random(number)) for entry in models])
        denoise_s.append([await _denoise_s(stages, entry, Random(-number)) for entry in models])
    return {"rounds": rounds} | _numbers("images/s", whole_s[1:]) | _numbers("latents/s", denoise_s[1:])


def _numbers(unit: str, taken_s: Sequence[Sequence[float]]) -> dict[str, float | int]:
    """Return the rates, and the ratios of the rounds, which have the seconds of the teacher and of the student."""
    ratios = [teacher_s / student_s for teacher_s, student_s in taken_s]
    rates = [_REQUESTS / statistics.median(of_model) for of_model in zip(*taken_s, strict=True)]
    return {
        f"{_TEACHER}, {unit}": round(rates[0], 2),
        f"{_STUDENT}, {unit}": round(rates[1], 2),
        f"ratio of {unit}, median of rounds": round(statistics.median(ratios), 2),
        f"ratio of {unit}, lowest": round(min(ratios), 2),
        f"ratio of {unit}, highest": round(max(ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_steps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    catalogue = read_catalogue().only([_TEACHER, _STUDENT])
    stages = LocalStages(catalogue)
    numbers = asyncio.run(_measure(stages, catalogue, rounds))
    stages.close()
    record("few_steps", numbers)


if __name__ == "__main__":
    main()
