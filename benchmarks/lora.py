"""Benchmark of LoRAs in the engine: what they cost per step, to load, and to neighbours.

`python -m benchmarks.lora` prints

- the step of 16 guided requests that have two LoRAs each, out of sixteen of ranks 8 to 64 that are all resident,
  against the step of the same requests without LoRAs, in alternating rounds;
- the time to bring a LoRA into a replica from its file, and from the memory of its host;
- the gaps between the steps of a running batch while large LoRAs are loaded beside it, and without;
- the time to let a request join and leave a batch, against packing all rows again.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.adapters import Lora, in_order
from atelier.core.conditioning import Conditioning, Role, Text
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.sampling import Sampling
from atelier.engine.engine import Engine, EngineSettings, StepReport
from atelier.engine.request import Event, RunningRequest, Submitted
from atelier.engine.runner import Runner
from atelier.engine.runners import Runners, load_runners
from atelier.families import sdxl
from atelier.families.family import PromptConditions
from atelier.families.sdxl.text import TextEncoders
from atelier.families.unet.adapters.loaded import LoadedAdapters
from atelier.models.hashes import place_hash
from atelier.models.loading import Placement, load_unet
from benchmarks.engine import uniform
from benchmarks.results import record

_CPU = Placement("cpu", "float32")
_RANKS = (8, 16, 32, 64)
_NUM_RESIDENT = 16
_NUM_REQUESTS, _NUM_STEPS = 16, 15
#: Programs of the UNet are traced after a hundred calls.
_NUM_WARM_UPS = 7
#: Layers that LoRAs for SDXL usually change: the linear layers of the transformer blocks.
_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(os.cpu_count() or 1)
    entry = read_catalogue().model("tiny-sdxl")
    [embeds] = TextEncoders(entry, _CPU).encode([Text("a red circle", "a red circle")])
    requests = uniform(Conditioning(positive=embeds, negative=None))[:_NUM_REQUESTS]
    with tempfile.TemporaryDirectory() as folder:
        files = _write_loras(entry, Path(folder))
        runners = load_runners([entry], _CPU, find_lora=files.__getitem__)
        numbers = _steps(runners, requests, rounds=rounds)
        numbers |= _loading(entry, files)
        numbers |= _joining(runners, requests, rounds=rounds)
        numbers |= _gaps(entry, files, requests[0])
    record("lora", numbers)


def _write_loras(entry: ModelEntry, folder: Path) -> dict[str, Path]:
    """Write the LoRAs of the benchmark, and four of rank 256 that are slow to load; return them by their ids."""
    unet = load_unet(entry, _CPU)
    names = {f"lora-{index}": _RANKS[index % len(_RANKS)] for index in range(_NUM_RESIDENT)}
    names |= {f"large-{index}": 256 for index in range(4)}
    for name, rank in names.items():
        write_lora(unet, rank, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in names}


def write_lora(unet: UNet2DConditionModel, rank: int, file: Path) -> None:
    """Write a LoRA of random factors for the layers that LoRAs usually change."""
    tensors = {}
    for layer, module in unet.named_modules():
        if layer.endswith(_LAYERS) and isinstance(module, torch.nn.Linear):
            key = f"unet.{layer}.lora"
            tensors[f"{key}_A.weight"] = torch.randn(rank, module.in_features) * 0.02
            tensors[f"{key}_B.weight"] = torch.randn(module.out_features, rank) * 0.02
    save_file(tensors, file)


def _admitted(runner: Runner, submitted: Submitted) -> tuple[RunningRequest, Mapping[Role, PromptConditions]]:
    running = runner.begin(submitted)
    return running, runner.prompts(running)


class _Steps:
    """Steps of a batch of 16 guided requests, with a given number of LoRAs each."""

    def __init__(self, runners: Runners, requests: Sequence[DenoiseRequest]) -> None:
        submitted = [runners.submitted(request, emit=lambda _: None) for request in requests]
        self._runner = runner = runners.runner(submitted[0].key.model)
        wait([adapter for each in submitted for adapter in each.adapters])
        self._batch = runner.new_batch(submitted[0].key, exact_width=8)
        for each in submitted:
            self._batch.join(*_admitted(runner, each))

    def time_s(self, num_steps: int) -> list[float]:
        for request in self._batch.requests:
            request.step_index = 0
        return [
            _time_s(lambda: self._runner.step(self._batch.requests, self._batch.packed)) for _ in range(num_steps)
        ]


def _steps(runners: Runners, requests: Sequence[DenoiseRequest], *, rounds: int) -> dict[str, float]:
    """Steps of equal requests, with two LoRAs per row and with none, in turn."""
    plain, loras = _Steps(runners, requests), _Steps(runners, [_with_two(*each) for each in enumerate(requests)])
    taken_s: dict[str, list[float]] = {"plain": [], "loras": []}
    for is_warm in [*[False] * _NUM_WARM_UPS, *[True] * rounds]:
        measured = {"plain": plain.time_s(_NUM_STEPS), "loras": loras.time_s(_NUM_STEPS)}
        if is_warm:
            for name, times_s in measured.items():
                taken_s[name] += times_s
    plain_ms, loras_ms = (1000 * statistics.median(times_s) for times_s in taken_s.values())
    return {
        "step of 32 rows, ms": round(plain_ms, 2),
        "with two LoRAs per row, ms": round(loras_ms, 2),
        "plain over LoRAs": round(plain_ms / loras_ms, 3),
    }


def _with_two(index: int, request: DenoiseRequest) -> DenoiseRequest:
    first, second = index % _NUM_RESIDENT, (5 * index + 3) % _NUM_RESIDENT
    loras = {f"lora-{first}": 0.7, f"lora-{second if second != first else (first + 1) % _NUM_RESIDENT}": -0.4}
    in_pass = in_order(Lora(name, weight) for name, weight in loras.items())
    return replace(request, pass_=replace(request.pass_, loras=in_pass))


def _joining(runners: Runners, requests: Sequence[DenoiseRequest], *, rounds: int) -> dict[str, float]:
    """Let a request join 15 others and leave them; then pack all prompts again, as if there were no slots."""
    submitted = [runners.submitted(request, emit=lambda _: None) for request in requests]
    runner = runners.runner(submitted[0].key.model)
    admitted = [_admitted(runner, each) for each in submitted]
    batch = runner.new_batch(submitted[0].key, exact_width=8)
    for each in admitted:
        batch.join(*each)
    prompts = [prompt for _, of_request in admitted for prompt in of_request.values()]
    sizes = [request.pass_.size for request in requests for _ in range(2)]
    last, taken_s = admitted[-1], defaultdict[str, list[float]](list)

    def leave() -> None:
        batch.leave(last[0].submitted.request_id)
        _ = batch.packed

    def join() -> None:
        batch.join(*last)
        _ = batch.packed

    for _ in range(20 * rounds):
        taken_s["leave, ms"].append(_time_s(leave))
        taken_s["join, ms"].append(_time_s(join))
        taken_s["pack all rows, ms"].append(_time_s(lambda: sdxl.stack(prompts, sizes)))
    return {name: round(1000 * statistics.median(times_s), 2) for name, times_s in taken_s.items()}


def _loading(entry: ModelEntry, files: Mapping[str, Path]) -> dict[str, float]:
    """Bring each LoRA into a replica for the first time, and again after others have taken its place."""
    unet = load_unet(entry, _CPU)
    adapters = LoadedAdapters(files.__getitem__, lambda _: {"unet": unet}, _CPU)

    def median_ms(names: Sequence[str]) -> float:
        return round(1000 * statistics.median(_time_s(adapters.get(entry.id, name).result) for name in names), 2)

    names = [name for name in files if name.startswith("lora-")]
    return {
        "load from a file, ms": median_ms(names),
        "the same of rank 256, ms": median_ms([name for name in files if name not in names]),
        "activate from the host's memory, ms": median_ms(names[: len(files) - _NUM_RESIDENT]),
        "find on the device, ms": median_ms(names[: len(files) - _NUM_RESIDENT]),
    }


def _gaps(entry: ModelEntry, files: Mapping[str, Path], request: DenoiseRequest) -> dict[str, float]:
    """Steps of one long request alone, then while other requests wait for large LoRAs to load; gaps included."""
    num_threads = os.cpu_count() or 1
    reports: list[StepReport] = []
    engine = Engine(
        lambda: load_runners([entry], _CPU, find_lora=files.__getitem__),
        # No room beside the long request, so that those that have loaded their LoRAs do not join it.
        EngineSettings(num_threads=num_threads, max_waiting=64, max_rows=2, exact_width=8),
        place=place_hash(_CPU, num_threads=num_threads, width=8),
        observe=reports.append,
    )
    long = replace(request, pass_=replace(request.pass_, sampling=Sampling(num_inference_steps=100)))
    numbers = {}
    for name, loading in (("alone", []), ("while LoRAs load", [name for name in files if name.startswith("large-")])):
        reports.clear()
        ended: queue.Queue[Event] = queue.Queue()
        engine.submit(long, ended.put)
        for lora in loading:
            pass_ = replace(request.pass_, loras=(Lora(lora, 1.0),), sampling=Sampling(num_inference_steps=1))
            engine.submit(replace(request, request_id=RequestId(lora), pass_=pass_), ended.put)
        for _ in range(1 + len(loading)):
            event = ended.get(timeout=600)
            assert isinstance(event, Denoised), event
        steps_ms = [1000 * (report.step_s + (report.gap_s or 0)) for report in reports[:100]]
        numbers[f"step {name}, median, ms"] = round(statistics.median(steps_ms), 1)
        numbers[f"step {name}, longest, ms"] = round(max(steps_ms), 1)
    engine.close()
    return numbers


def _time_s(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
