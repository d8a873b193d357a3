"""Steps of the engine's batches against bare calls of diffusers' UNet, with LoRAs and ControlNets, and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from atelier.control.controlnets import load_controlnets
from atelier.control.transports import InProcess
from atelier.core.adapters import Lora, in_order
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest
from atelier.core.geometry import Size
from atelier.engine.runners import Runners, load_runners
from atelier.families.unet.conditions import add_time_ids
from atelier.models.host import ModelHost
from atelier.models.loading import load_unet
from benchmarks.lora import write_lora
from benchmarks.sdxl_setup import Numbers, Setup, milliseconds

_LORA_RANKS = (8, 16, 32, 64)
#: Side of the matrices whose product gives the rate that steps are compared with.
_MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}


class StepBatch:
    """A batch of requests that have been admitted."""

    def __init__(self, runners: Runners, requests: Sequence[DenoiseRequest]) -> None:
        submitted = [runners.submitted(request, emit=lambda _: None) for request in requests]
        self.runner = runners.runner(submitted[0].key.model)
        wait([adapter for each in submitted for adapter in each.adapters])
        self.batch = self.runner.new_batch(submitted[0].key, exact_width=8)
        for each in submitted:
            running = self.runner.begin(each)
            self.last = running, self.runner.prompts(running)
            self.batch.join(*self.last)

    def step(self) -> None:
        """Take a step; always the first, so that there is no end."""
        for request in self.batch.requests:
            request.step_index = 0
        self.runner.step(self.batch.requests, self.batch.packed)


def steps(setup: Setup) -> Numbers:
    """Steps by the number of rows and the size, and bare calls of as many rows."""
    runners, unet = load_runners([setup.entry], setup.placement), load_unet(setup.entry, setup.placement)
    peak = _matmul_flops_per_s(setup)
    numbers: Numbers = {"matmul, TFLOP/s": round(peak / 1e12, 3)}
    cases = [(width, setup.sizes[0]) for width in setup.widths]
    for width, size in [*cases, *((setup.widths[-1], size) for size in setup.sizes[1:])]:
        step_s = setup.seconds(StepBatch(runners, setup.requests(width // 2, size)).step)
        call = _bare_call(setup, unet, width, size)
        bare_s, name = setup.seconds(call), f"{size}, {width} rows"
        with FlopCounterMode(display=False) as counter:
            call()
        numbers |= {
            f"{name}: step, ms": milliseconds(step_s),
            f"{name}: share of the matmul rate": round(counter.get_total_flops() / step_s / peak, 3),
            f"{name}: bare call, ms": milliseconds(bare_s),
            f"{name}: bare call / step": round(bare_s / step_s, 3),
        }
        if setup.is_compiled:
            compiled_s = setup.seconds(_bare_call(setup, torch.compile(unet), width, size))
            numbers[f"{name}: compiled call / step"] = round(compiled_s / step_s, 3)
    return numbers


def _matmul_flops_per_s(setup: Setup) -> float:
    side = _MATRIX_SIDE[setup.placement.device]
    matrix = torch.randn(side, side, device=setup.placement.device).to(setup.placement.dtype)
    return 2 * side**3 / setup.seconds(lambda: matrix @ matrix)


def _bare_call(setup: Setup, unet: UNet2DConditionModel, width: int, size: Size) -> Callable[[], torch.Tensor]:
    """Return a call of diffusers' UNet, with its own attention, on random rows."""
    [request] = setup.requests(1, size)
    embeds = request.conditioning.positive
    device, dtype = setup.placement.device, setup.placement.dtype
    prompt_embeds, pooled = (
        torch.tensor(floats, device=device, dtype=dtype).expand(width, *floats.shape)
        for floats in (embeds.prompt_embeds, embeds.pooled_prompt_embeds)
    )
    time_ids = torch.tensor([add_time_ids(size)], device=device, dtype=dtype).expand(width, -1)
    sample = torch.randn(width, 4, size.latent_height, size.latent_width, device=device, dtype=dtype)
    timesteps = torch.full((width,), 500, device=device)

    @torch.inference_mode()
    def call() -> torch.Tensor:
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        noise_pred: torch.Tensor = unet(sample, timesteps, prompt_embeds, added_cond_kwargs=conditions).sample
        return noise_pred

    return call


def steps_with_loras(setup: Setup) -> Numbers:
    """Steps of requests that have two LoRAs each, against steps without."""
    unet, width = load_unet(setup.entry, setup.placement), setup.widths[-1]
    with tempfile.TemporaryDirectory() as folder:
        files = {f"rank-{rank}": Path(folder, f"rank-{rank}.safetensors") for rank in _LORA_RANKS}
        for rank, file in zip(_LORA_RANKS, files.values(), strict=True):
            write_lora(unet, rank, file)
        runners = load_runners([setup.entry], setup.placement, find_lora=files.__getitem__)
        plain = setup.requests(width // 2)
        names = list(files)
        loras = [
            in_order([Lora(names[index % 4], 0.7), Lora(names[(index + 1) % 4], -0.4)]) for index in range(len(plain))
        ]
        with_loras = [
            replace(request, pass_=replace(request.pass_, loras=of)) for request, of in zip(plain, loras, strict=True)
        ]
        plain_s, loras_s = (setup.seconds(StepBatch(runners, requests).step) for requests in (plain, with_loras))
    return {f"{width} rows: step without LoRAs / with two each": round(plain_s / loras_s, 3)}


def steps_with_controls(setup: Setup) -> Numbers:
    """Steps of requests with one and with three controls, against steps without."""
    host = ModelHost(setup.placement)
    transport = InProcess(load_controlnets(setup.catalogue, setup.placement, host))
    runners = load_runners([setup.entry], setup.placement, transport, host=host)
    [controlnet], size = setup.catalogue.controlnets, setup.sizes[0]
    drawing = np.random.default_rng(0).integers(0, 255, (size.height, size.width, 3), np.uint8)
    width, taken_s = setup.widths[1], []
    for num_controls in (0, 1, 3):
        controls = tuple(
            Control(controlnet=controlnet.id, control_image=drawing, controlnet_conditioning_scale=0.5 + index / 4)
            for index in range(num_controls)
        )
        requests = [replace(request, controls=controls) for request in setup.requests(width // 2)]
        taken_s.append(setup.seconds(StepBatch(runners, requests).step))
    return {
        f"{width} rows: step with one control / without": round(taken_s[1] / taken_s[0], 3),
        f"{width} rows: step with three controls / without": round(taken_s[2] / taken_s[0], 3),
    }


def joining(setup: Setup) -> Numbers:
    """The time to admit a request, and to leave and join a batch."""
    width = setup.widths[-1]
    runners = load_runners([setup.entry], setup.placement)
    admitted = StepBatch(runners, setup.requests(width // 2))
    batch, (running, prompts) = admitted.batch, admitted.last

    def leave_and_join() -> None:
        batch.leave(running.submitted.request_id)
        _ = batch.packed
        batch.join(running, prompts)
        _ = batch.packed

    def admit() -> None:
        admitted.runner.prompts(admitted.runner.begin(running.submitted))

    return {
        "admit a request, ms": milliseconds(setup.seconds(admit)),
        f"leave and join {width} rows, ms": milliseconds(setup.seconds(leave_and_join)),
    }


def memory(setup: Setup) -> Numbers:
    """The largest amount of memory by the number of rows, with the weights; on CUDA only."""
    if setup.placement.device != "cuda":
        return {}
    runners, numbers = load_runners([setup.entry], setup.placement), Numbers()
    for width in setup.widths:
        admitted = StepBatch(runners, setup.requests(width // 2))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        admitted.step()
        numbers[f"{setup.sizes[0]}, {width} rows: memory, GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return numbers
