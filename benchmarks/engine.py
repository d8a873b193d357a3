"""Benchmark of the engine's step: a bare UNet call against a uniform batch, and a uniform batch against a mixed one.

`python -m benchmarks.engine` runs them in turn with 32 rows, in one process, and prints the median times and their
ratios. A step is timed from the end of the previous one, so that its time includes packing, admission and events.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import TOKENS_PER_CHUNK, Conditioning, Text
from atelier.core.denoising import Denoised, DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import SAMPLERS, Sampling
from atelier.engine.engine import Engine, EngineSettings, StepReport
from atelier.engine.request import Event
from atelier.engine.runners import load_runners
from atelier.families.sdxl.text import TextEncoders
from atelier.families.unet.attention import keys_values
from atelier.models.hashes import place_hash
from atelier.models.loading import Placement, load_unet
from benchmarks.results import record

_CPU = Placement("cpu", "float32")
_REQUESTS, _ROWS, _STEPS = 16, 32, 20


class BareUNet:
    """A UNet of diffusers with diffusers' own attention, called in a dedicated thread."""

    def __init__(self, entry: ModelEntry, *, num_threads: int) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(num_threads,))
        self._unet: UNet2DConditionModel = self._thread.submit(lambda: load_unet(entry, _CPU)).result()

    def call_s(self, repetitions: int, *, num_rows: int, height: int, width: int) -> list[float]:
        """Time calls of the UNet on latents [num_rows, 4, height, width]; returns the seconds of each call."""
        prompt_embeds = self._prompt_embeds(num_rows)
        arguments = {
            "sample": torch.randn(num_rows, 4, height, width),
            "timestep": torch.linspace(1, 999, num_rows),
            "encoder_hidden_states": prompt_embeds,
            "encoder_attention_mask": torch.ones(prompt_embeds.shape[:2]),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(num_rows, 64),
                "time_ids": torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]]).expand(num_rows, -1),
            },
        }
        return self._thread.submit(_timed, lambda: self._unet(**arguments), repetitions).result()

    def keys_values_s(self, repetitions: int, *, num_rows: int) -> list[float]:
        """Time computing the keys and values of `num_rows` prompts, which the engine does once per request."""
        prompt_embeds = self._prompt_embeds(num_rows)
        return self._thread.submit(_timed, lambda: keys_values(self._unet, prompt_embeds), repetitions).result()

    def _prompt_embeds(self, num_rows: int) -> torch.Tensor:
        return torch.randn(num_rows, TOKENS_PER_CHUNK, self._unet.config.cross_attention_dim)


@torch.inference_mode()
def _timed(call: Callable[[], object], repetitions: int) -> list[float]:
    taken_s = []
    for _ in range(repetitions):
        start_s = time.perf_counter()
        call()
        taken_s.append(time.perf_counter() - start_s)
    return taken_s


def uniform(conditioning: Conditioning) -> list[DenoiseRequest]:
    """Return requests that differ only in their seeds."""
    request = DenoiseRequest(
        request_id=RequestId("req"),
        pass_=Pass(
            model="tiny-sdxl",
            size=Size(width=128, height=128),
            seeds=(0,),
            sampling=Sampling(num_inference_steps=_STEPS),
            guidance_scale=5.0,
        ),
        conditioning=conditioning,
    )
    return [
        replace(request, request_id=RequestId(f"req_{i}"), pass_=replace(request.pass_, seeds=(i,)))
        for i in range(2 * _REQUESTS)
    ]


def mixed(conditioning: Conditioning) -> list[DenoiseRequest]:
    """Return as many requests as `uniform`, with every sampler, 10 to 30 steps and guidance of 1.5 to 7.5."""
    samplers = list(SAMPLERS)
    return [
        replace(
            request,
            pass_=replace(
                request.pass_,
                sampling=Sampling(num_inference_steps=10 + 7 * i % 21, sampler=samplers[i % len(samplers)]),
                guidance_scale=1.5 + i % 7,
            ),
        )
        for i, request in enumerate(uniform(conditioning))
    ]


def full_steps_s(engine: Engine, reports: list[StepReport], requests: Sequence[DenoiseRequest]) -> list[float]:
    """Run the requests; return the seconds of each step with `_ROWS` rows, including the gap before the step."""
    reports.clear()
    ended: queue.Queue[Event] = queue.Queue()
    for request in requests:
        engine.submit(request, ended.put)
    for _ in requests:
        event = ended.get(timeout=600)
        assert isinstance(event, Denoised), event
    return [r.step_s + r.gap_s for r in reports if r.num_rows == _ROWS and r.gap_s is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    num_threads = os.cpu_count() or 1
    entry = read_catalogue().model("tiny-sdxl")
    [embeds] = TextEncoders(entry, _CPU).encode([Text("a red circle", "a red circle")])
    conditioning = Conditioning(positive=embeds, negative=None)
    bare = BareUNet(entry, num_threads=num_threads)
    reports: list[StepReport] = []
    engine = Engine(
        lambda: load_runners([entry], _CPU),
        EngineSettings(num_threads=num_threads, max_waiting=64, max_rows=_ROWS, exact_width=8),
        place=place_hash(_CPU, num_threads=num_threads, width=8),
        observe=reports.append,
    )
    bare_s: list[float] = []
    keys_values_s: list[float] = []
    uniform_s: list[float] = []
    mixed_s: list[float] = []
    for is_warm in [False, *[True] * options.rounds]:
        measured = (
            bare.call_s(_STEPS, num_rows=_ROWS, height=16, width=16),
            bare.keys_values_s(_STEPS, num_rows=_ROWS),
            full_steps_s(engine, reports, uniform(conditioning)),
            full_steps_s(engine, reports, mixed(conditioning)),
        )
        if is_warm:
            for taken_s, more_s in zip((bare_s, keys_values_s, uniform_s, mixed_s), measured, strict=True):
                taken_s += more_s
    engine.close()
    bare_ms, keys_values_ms, uniform_ms, mixed_ms = (
        1000 * statistics.median(taken_s) for taken_s in (bare_s, keys_values_s, uniform_s, mixed_s)
    )
    record(
        "engine",
        {
            "rows": _ROWS,
            "bare_call_ms": round(bare_ms, 2),
            "uniform_step_ms": round(uniform_ms, 2),
            "mixed_step_ms": round(mixed_ms, 2),
            "bare_over_uniform": round(bare_ms / uniform_ms, 3),
            "uniform_over_mixed": round(uniform_ms / mixed_ms, 3),
            "keys_values_share_of_bare_call": round(keys_values_ms / bare_ms, 3),
        },
    )


if __name__ == "__main__":
    main()
