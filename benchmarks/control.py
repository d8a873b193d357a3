"""ControlNets: what a hop costs by each transport, and what one and three controls cost a picture.

`python -m benchmarks.control` prints the median round trip of a call's residuals, at the zoo's size and at 54 MB (one
row of SDXL's at 1024² in half precision), with nothing computed behind it; and the time of pictures on one device
with one control and with three over that of plain ones, measured in turn in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
import torch
from ray import serve
from ray.serve.handle import DeploymentHandle

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.control.annotators import canny
from atelier.control.batching import ResidualBatcher
from atelier.control.calls import ContextId, ControlCall, ControlRow
from atelier.control.controlnets import ControlNets, load_controlnets
from atelier.control.residuals import Residuals
from atelier.control.same_node import SameNode, SameNodeServer
from atelier.control.transports import InProcess, Transport
from atelier.control.wire import Ask, Reply, reply_to
from atelier.core.conditioning import Conditioning, Text
from atelier.core.control import CANNY_THRESHOLDS, Control
from atelier.core.denoising import Denoised, DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.engine.engine import Engine, EngineSettings
from atelier.engine.request import Event
from atelier.engine.runner import load_runners
from atelier.families.sdxl.text import TextEncoders
from atelier.models.hashes import place_hash
from atelier.models.loading import Placement
from atelier.models.thread import ModelThread
from benchmarks.results import record
from deployments.residuals import OverHandle

_CPU = Placement("cpu", "float32")
_DEADLINE_S = 30.0
#: (channels, side of the latents) of what SDXL's encoder passes on at 1024², the middle block last.
_SDXL = [*[(320, 128)] * 3, (320, 64), *[(640, 64)] * 2, (640, 32), *[(1280, 32)] * 3]
#: The same of tiny-sdxl at 128², in float32.
_ZOO = [*[(64, 16)] * 2, (64, 8), (96, 8), (96, 4), *[(128, 4)] * 2]


class _Stored(ControlNets):
    """Answers with residuals that are there already, so that only the way is measured."""

    def __init__(self) -> None:
        self._by_size = {
            "zoo": _stored(_ZOO, rows=2, dtype=torch.float32),
            "54 MB": _stored(_SDXL, rows=1, dtype=torch.float16),
        }

    def unknown(self, rows: object) -> tuple[ContextId, ...]:  # noqa: ARG002
        return ()

    def residuals(self, call: ControlCall) -> Residuals:
        return self._by_size[call.controlnet]


def _stored(shapes: list[tuple[int, int]], *, rows: int, dtype: torch.dtype) -> Residuals:
    tensors = [
        torch.randn(rows, channels, side, side).to(dtype, memory_format=torch.channels_last)
        for channels, side in shapes
    ]
    return Residuals(tuple(tensors[:-1]), tensors[-1])


class _Replica:
    """The way of `deployments.controlnet`, in front of what is stored."""

    def __init__(self) -> None:
        self._batcher = ResidualBatcher(_Stored(), ModelThread("stored", num_threads=1))
        self._server = SameNodeServer(self._batcher, _CPU)

    async def residuals(self, ask: Ask) -> Reply:
        return await asyncio.to_thread(reply_to, self._batcher.submit(ask.call_on(_CPU), ask.contexts))

    async def socket_file(self) -> Path:
        return self._server.socket_file


@contextmanager
def _replica() -> Iterator[DeploymentHandle]:
    ray.init(include_dashboard=False, log_to_driver=False)
    yield serve.run(serve.deployment(_Replica, max_ongoing_requests=8).bind(), name="stored", route_prefix=None)
    serve.shutdown()
    ray.shutdown()


def round_trips_ms(repetitions: int) -> dict[str, float]:
    """Medians by transport and size; the residuals are copied once by whoever asked."""
    with _replica() as handle:
        socket_file: Path = handle.socket_file.remote().result()
        same_node = SameNode(lambda: socket_file, _CPU, deadline_s=_DEADLINE_S)
        transports: dict[str, Transport] = {
            "in_process": InProcess(_Stored()),
            "same_node": same_node,
            "handle": OverHandle(handle, _CPU, deadline_s=_DEADLINE_S),
        }
        taken_ms: dict[tuple[str, str], list[float]] = {}
        for _ in range(repetitions):
            for size in ("zoo", "54 MB"):
                for name, transport in transports.items():
                    # What the one before left behind, on this side and the other, is over after two.
                    taken = [_round_trip_ms(transport, size) for _ in range(8)]
                    taken_ms.setdefault((name, size), []).extend(taken[2:])
        same_node.close()
    return {f"{name}, {size}": statistics.median(taken) for (name, size), taken in taken_ms.items()}


def _round_trip_ms(transport: Transport, size: str) -> float:
    side, rows = (16, 2) if size == "zoo" else (128, 1)
    call = ControlCall(
        controlnet=size,
        rows=(ControlRow(ContextId("stored"), "positive", 1.0, False),) * rows,
        model_input=torch.zeros(rows, 4, side, side),
        timesteps=torch.zeros(rows),
        num_tokens=77,
        width=None,
    )
    start_s = time.perf_counter()
    [made] = transport.start([call], {})()
    for residual in (*made.skips, made.hidden_states):
        residual.clone()
    return 1000 * (time.perf_counter() - start_s)


def pictures_ms(catalogue: Catalogue, rounds: int) -> dict[int, float]:
    """Median time in the engine of a guided picture of 20 steps, by its number of controls."""
    # Threads that other threads leave behind make the engine's wait asleep: before it, and with one of them.
    torch.set_num_threads(1)
    request = _request(catalogue)
    num_threads = os.cpu_count() or 1
    engine = Engine(
        lambda: load_runners(catalogue.models, _CPU, InProcess(load_controlnets(catalogue, _CPU))),
        EngineSettings(num_threads=num_threads, max_waiting=8, max_rows=32, exact_width=8),
        place=place_hash(_CPU, num_threads=num_threads, width=8),
    )
    taken_ms: dict[int, list[float]] = {}
    for _ in range(rounds + 1):
        for count in (0, 1, 3):
            controlled = replace(request, controls=request.controls[:count])
            taken_ms.setdefault(count, []).append(_picture_ms(engine, controlled))
    engine.close()
    return {count: statistics.median(taken[1:]) for count, taken in taken_ms.items()}


def _picture_ms(engine: Engine, request: DenoiseRequest) -> float:
    ended: queue.Queue[Event] = queue.Queue()
    start_s = time.perf_counter()
    engine.submit(request, ended.put)
    event = ended.get(timeout=60)
    assert isinstance(event, Denoised), event
    return 1000 * (time.perf_counter() - start_s)


def _request(catalogue: Catalogue) -> DenoiseRequest:
    """Guided, with three controls of which the first and the last are of one ControlNet."""
    entry = catalogue.model(None)
    [embeds] = TextEncoders(entry, _CPU).encode([Text("a red circle", "a red circle")])
    picture = np.zeros((128, 128, 3), dtype=np.uint8)
    picture[40:90, 40:90] = 255
    maps = (canny(picture, *CANNY_THRESHOLDS), picture, canny(picture[::-1, ::-1].copy(), *CANNY_THRESHOLDS))
    controls = tuple(
        Control(controlnet=name, control_image=control_image, controlnet_conditioning_scale=1.0)
        for name, control_image in zip(("tiny-canny", "tiny-depth", "tiny-canny"), maps, strict=True)
    )
    return DenoiseRequest(
        request_id=RequestId("req"),
        pass_=Pass(
            model=entry.id,
            size=Size(width=128, height=128),
            seeds=(0,),
            sampling=Sampling(num_inference_steps=20),
            guidance_scale=5.0,
        ),
        conditioning=Conditioning(positive=embeds, negative=None),
        controls=controls,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    catalogue = read_catalogue().only(["tiny-sdxl"], ["tiny-canny", "tiny-depth"])
    by_controls = pictures_ms(catalogue, options.rounds)
    round_trips = round_trips_ms(options.rounds)
    record(
        "control",
        {
            **{f"round trip, {name}, ms": round(taken_ms, 3) for name, taken_ms in round_trips.items()},
            "plain picture, ms": round(by_controls[0], 1),
            "one control over plain": round(by_controls[1] / by_controls[0], 3),
            "three controls over plain": round(by_controls[3] / by_controls[0], 3),
            "54 MB payload, MB": round(sum(2 * channels * side**2 for channels, side in _SDXL) / 1e6, 1),
        },
    )


if __name__ == "__main__":
    main()
