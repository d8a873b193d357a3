"""What `benchmarks.sdxl_gpu` measures: at SDXL's real size on a GPU, or at the zoo's on the CPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import TOKENS_PER_CHUNK, Conditioning, TextEmbeds
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.models.loading import Placement
from benchmarks.sdxl_size import write_catalogue

Numbers = dict[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is measured, and how often."""

    catalogue: Catalogue
    placement: Placement
    #: Numbers of rows of a step, and sizes of images; sizes after the first are measured with the most rows only.
    widths: tuple[int, ...]
    sizes: tuple[Size, ...]
    num_latency_steps: int
    num_throughput_steps: int
    num_images: int
    num_repetitions: int
    #: Whether diffusers' UNet is measured by `torch.compile` as well.
    is_compiled: bool

    @property
    def entry(self) -> ModelEntry:
        return self.catalogue.models[0]

    def synchronise(self) -> None:
        """Wait until the device has done everything."""
        if self.placement.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median time of a call, after two that are not counted."""
        taken_s = []
        for number in range(2 + self.num_repetitions):
            self.synchronise()
            start_s = time.perf_counter()
            call()
            self.synchronise()
            if number >= 2:
                taken_s.append(time.perf_counter() - start_s)
        return float(np.median(taken_s))

    def requests(self, count: int, size: Size | None = None, *, num_steps: int = 20) -> list[DenoiseRequest]:
        """Return guided requests for one image each, with random embeddings."""
        embeds = random_embeds(self.entry, seed=0), random_embeds(self.entry, seed=1)
        first = DenoiseRequest(
            request_id=RequestId("req"),
            pass_=Pass(
                model=self.entry.id,
                size=size or self.sizes[0],
                seeds=(0,),
                sampling=Sampling(num_inference_steps=num_steps),
                guidance_scale=5.0,
            ),
            conditioning=Conditioning(positive=embeds[0], negative=embeds[1]),
        )
        return [
            replace(first, request_id=RequestId(f"req_{seed}"), pass_=replace(first.pass_, seeds=(seed,)))
            for seed in range(count)
        ]


def random_embeds(entry: ModelEntry, *, seed: int) -> TextEmbeds:
    """Return the embeddings of a prompt of one chunk, in the widths that the model's UNet reads."""
    config = _config(entry)
    size_width = 6 * int(config["addition_time_embed_dim"])
    pooled_width = int(config["projection_class_embeddings_input_dim"]) - size_width
    generator = np.random.default_rng(seed)
    return TextEmbeds(
        prompt_embeds=generator.standard_normal((TOKENS_PER_CHUNK, int(config["cross_attention_dim"])), np.float32),
        pooled_prompt_embeds=generator.standard_normal(pooled_width, np.float32),
    )


def _config(entry: ModelEntry) -> dict[str, int]:
    """Return the config of the model's UNet."""
    config: dict[str, int] = UNet2DConditionModel.load_config(str(entry.files.folder), subfolder="unet")
    return config


@contextmanager
def real_setup(placement: Placement, *, is_compiled: bool) -> Iterator[Setup]:
    """Return what is measured at SDXL's real size; its weights are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Setup(
            catalogue=write_catalogue(Path(folder), placement),
            placement=placement,
            widths=(2, 4, 8, 16, 32),
            sizes=(_square(1024), _square(768), Size(width=1344, height=768)),
            num_latency_steps=30,
            num_throughput_steps=20,
            num_images=8,
            num_repetitions=10,
            is_compiled=is_compiled,
        )


def zoo_setup() -> Setup:
    """Return what is measured at the zoo's size, on the CPU."""
    return Setup(
        catalogue=read_catalogue().only(["tiny-sdxl"], ["tiny-canny"]),
        placement=Placement("cpu", "float32"),
        widths=(2, 4),
        sizes=(_square(128), Size(width=160, height=96)),
        num_latency_steps=6,
        num_throughput_steps=4,
        num_images=2,
        num_repetitions=2,
        is_compiled=False,
    )


def _square(side_px: int) -> Size:
    return Size(width=side_px, height=side_px)


def milliseconds(seconds: float) -> float:
    """Return a time as it is recorded."""
    return round(1000 * seconds, 3)
