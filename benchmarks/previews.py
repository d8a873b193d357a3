"""Previews: how near they are to the final image, and what they cost when everybody watches.

`python -m benchmarks.previews` makes images of held-out prompts with 3 previews at 20 steps, and prints the mean
absolute difference, of 255, of the first and of the last preview to the image, by the preview decoder and by the
linear projection. Then 16 clients ask for images, all with previews and none with any in turn; it prints the median
of the rounds' ratios, of rates and of CPU times. All of it runs in this process, by `atelier.local`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.core.denoising import RequestId
from atelier.core.params import GenerateParams, parse
from atelier.local.stages import DEFAULT_SETTINGS, local_stages
from atelier.pipeline.events import Preview
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.record import RequestRecord
from atelier.pipeline.results import Result
from benchmarks.results import record
from zoo.captions import canonical
from zoo.report import held_out_descriptions

_MODEL = "tiny-sdxl"
_NUM_PROMPTS, _NUM_STEPS, _NUM_PREVIEWS = 30, 20, 3
_NUM_CLIENTS, _IMAGES_PER_CLIENT = 16, 2
#: Programs of the UNet are traced after a hundred calls.
_WARM_UP_ROUNDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    record("previews", asyncio.run(_measured(rounds=parser.parse_args().rounds)))


async def _measured(*, rounds: int) -> dict[str, float | int]:
    catalogue = read_catalogue().only([_MODEL])
    linear = catalogue.model_copy(
        update={"models": tuple(one.model_copy(update={"preview_decoder": None}) for one in catalogue.models)}
    )
    numbers = {f"linear: {name}": number for name, number in (await _differences(linear)).items()}
    numbers |= await _differences(catalogue)
    return numbers | await _cost(catalogue, rounds=rounds)


async def _differences(catalogue: Catalogue) -> dict[str, float]:
    """Return the differences of the first and last previews to their images, of 255: their mean and the largest."""
    first, last = [], []
    settings = replace(DEFAULT_SETTINGS, num_threads=os.cpu_count() or 1)
    async with local_stages(catalogue, settings=settings) as stages:
        pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=10**9))
        for seed, description in enumerate(held_out_descriptions(_NUM_PROMPTS)):
            files = await _files(pipeline, canonical(description), seed, _NUM_PREVIEWS)
            *previews, image = (_pixels(file) for file in files)
            assert len(previews) == _NUM_PREVIEWS
            first.append(float(np.abs(previews[0] - image).mean()))
            last.append(float(np.abs(previews[-1] - image).mean()))
    return {
        f"difference of the {name} preview, {kind}": round(number, 2)
        for name, differences in (("first", first), ("last", last))
        for kind, number in (("mean", statistics.mean(differences)), ("worst", max(differences)))
    }


async def _files(pipeline: Pipeline, prompt: str, seed: int, num_previews: int) -> list[bytes]:
    """Return the previews and the image of a request."""
    params = parse(GenerateParams, {"prompt": prompt, "seed": seed, "num_inference_steps": _NUM_STEPS})
    request = RequestRecord(request_id=RequestId(f"req_{seed}"), endpoint="benchmark")
    files = list[bytes]()
    async for event in pipeline.stream(request, params, num_previews=num_previews):
        if isinstance(event, Preview):
            files += event.files
        elif isinstance(event, Result):
            files += [picture.data for picture in event.pictures]
    return files


def _pixels(file: bytes) -> npt.NDArray[np.int16]:
    """Read an image, [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(file)), dtype=np.int16)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What the images of 16 clients took, and how many previews the clients saw."""

    taken_s: float
    cpu_s: float
    num_previews: int


async def _cost(catalogue: Catalogue, *, rounds: int) -> dict[str, float | int]:
    """Let 16 clients ask for images, in turn with previews and without, and return how both compare.

    The CPU time depends less than the rate on what else a shared machine does.
    """
    prompts = [canonical(description) for description in held_out_descriptions(_NUM_CLIENTS)]
    watched, unwatched = list[_Round](), list[_Round]()
    async with local_stages(catalogue) as stages:
        pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=10**9))
        for index in range(_WARM_UP_ROUNDS + rounds):
            # In another order each time, because a shared machine may become slower or faster for a while.
            for taken in (watched, unwatched) if index % 2 else (unwatched, watched):
                taken.append(await _round(pipeline, prompts, _NUM_PREVIEWS if taken is watched else 0, index))
    watched, unwatched = watched[_WARM_UP_ROUNDS:], unwatched[_WARM_UP_ROUNDS:]
    pairs = list(zip(watched, unwatched, strict=True))
    num_images = _NUM_CLIENTS * _IMAGES_PER_CLIENT
    num_previews = sum(one.num_previews for one in watched)
    return {
        "rounds": rounds,
        "images/s of 16 clients, nobody watches": round(
            statistics.median(num_images / one.taken_s for one in unwatched), 2
        ),
        "images/s of 16 clients, everybody watches": round(
            statistics.median(num_images / one.taken_s for one in watched), 2
        ),
        "rate, watched over unwatched": round(statistics.median(no.taken_s / yes.taken_s for yes, no in pairs), 3),
        "CPU time, watched over unwatched": round(statistics.median(yes.cpu_s / no.cpu_s for yes, no in pairs), 3),
        "share of previews that came in time": round(num_previews / (rounds * num_images * _NUM_PREVIEWS), 3),
    }


async def _round(pipeline: Pipeline, prompts: list[str], num_previews: int, index: int) -> _Round:
    async def client(number: int, prompt: str) -> int:
        seen = 0
        for image in range(_IMAGES_PER_CLIENT):
            seed = (index * _NUM_CLIENTS + number) * _IMAGES_PER_CLIENT + image
            seen += len(await _files(pipeline, prompt, seed, num_previews)) - 1
        return seen

    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    seen = await asyncio.gather(*(client(number, prompt) for number, prompt in enumerate(prompts)))
    return _Round(
        taken_s=time.perf_counter() - start_s, cpu_s=time.process_time() - start_cpu_s, num_previews=sum(seen)
    )


if __name__ == "__main__":
    main()
