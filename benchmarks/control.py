"""Benchmark of ControlNets: the round trip by each transport, and the time of images with one and three controls.

`python -m benchmarks.control` prints the median round trip of a call that returns stored residuals, of the zoo's size
and of 54 MB (one row of SDXL at 1024² in half precision). It also prints the time of images with one and with three
controls, divided by the time of images without controls, measured alternately in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
import torch
from ray import serve
from ray.serve.handle import DeploymentHandle

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.control.batching import ResidualBatcher
from atelier.control.calls import ContextId, ControlCall, ControlRow
from atelier.control.codec import Encoded, decode, encode
from atelier.control.controlnets import ControlNets, load_controlnets
from atelier.control.drawing import canny
from atelier.control.messages import ResidualsRequest, ResidualsResponse, response_of
from atelier.control.residuals import Residuals
from atelier.control.same_node import SameNode, SameNodeServer
from atelier.control.transports import InProcess, Transport
from atelier.core.conditioning import Conditioning, Text
from atelier.core.control import Annotation, Control
from atelier.core.denoising import Denoised, DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.engine.engine import Engine, EngineSettings
from atelier.engine.request import Event
from atelier.families.family import family_of
from atelier.local.denoising import new_engine
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.thread import ModelThread
from benchmarks.results import record
from deployments.residuals import OverHandle

_CPU = Placement("cpu", "float32")
_DEADLINE_S = 30.0
#: (channels, latent side) of the residuals of SDXL at 1024², the middle block last.
_SDXL = [*[(320, 128)] * 3, (320, 64), *[(640, 64)] * 2, (640, 32), *[(1280, 32)] * 3]
#: (channels, latent side) of the residuals of tiny-sdxl at 128², the middle block last.
_ZOO = [*[(64, 16)] * 2, (64, 8), (96, 8), (96, 4), *[(128, 4)] * 2]


class _Stored(ControlNets):
    """ControlNets that return stored random residuals, so that only the transport is measured."""

    def __init__(self) -> None:
        self._by_size = {
            "zoo": _stored(_ZOO, rows=2, dtype=torch.float32),
            "54 MB": _stored(_SDXL, rows=1, dtype=torch.float16),
        }

    def unknown(self, rows: object) -> tuple[ContextId, ...]:  # noqa: ARG002
        return ()

    def ready(self, call: ControlCall) -> Callable[[], Residuals]:
        return lambda: self._by_size[call.controlnet]


def _stored(shapes: list[tuple[int, int]], *, rows: int, dtype: torch.dtype) -> Residuals:
    tensors = [
        torch.randn(rows, channels, side, side).to(dtype, memory_format=torch.channels_last)
        for channels, side in shapes
    ]
    return Residuals(tuple(tensors[:-1]), tensors[-1])


class _Replica:
    """A stand-in for the deployment `ControlNet` that returns stored residuals."""

    def __init__(self) -> None:
        self._batcher = ResidualBatcher(_Stored(), ModelThread("stored", num_threads=1))
        self._server = SameNodeServer(self._batcher, _CPU)

    async def residuals(self, request: Encoded[ResidualsRequest]) -> Encoded[ResidualsResponse]:
        """Return the stored residuals, batched and encoded as `deployments.controlnet.ControlNet.residuals` does."""
        decoded = decode(request, _CPU)
        answer = self._batcher.submit(decoded.call, decoded.contexts)
        return encode(await asyncio.to_thread(response_of, answer))

    async def socket_file(self) -> Path:
        """Return the path of the replica's socket."""
        return self._server.socket_file


@contextmanager
def _replica() -> Iterator[DeploymentHandle]:
    ray.init(include_dashboard=False, log_to_driver=False)
    yield serve.run(serve.deployment(_Replica, max_ongoing_requests=8).bind(), name="stored", route_prefix=None)
    serve.shutdown()
    ray.shutdown()


def round_trips_ms(repetitions: int) -> dict[str, float]:
    """Measure median round trips in ms, by transport and payload; each includes one copy of the residuals."""
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
                    # Discard the first two: client and replica are still cleaning up after the previous transport.
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
    [residuals] = transport.start([call], {})()
    for residual in (*residuals.skips, residuals.hidden_states):
        residual.clone()
    return 1000 * (time.perf_counter() - start_s)


def images_ms(catalogue: Catalogue, rounds: int) -> dict[int, float]:
    """Measure the engine's median time, in ms, for a guided image of 20 steps, by its number of controls."""
    # Only the engine may have a team of OpenMP threads: beside a second team, it would sleep between operations.
    torch.set_num_threads(1)
    request = _request(catalogue)
    num_threads = os.cpu_count() or 1
    engine = new_engine(
        catalogue,
        _CPU,
        EngineSettings(num_threads=num_threads, max_waiting=8, max_rows=32, exact_width=8),
        transport=lambda host: InProcess(load_controlnets(catalogue, _CPU, host)),
    )
    taken_ms: dict[int, list[float]] = {}
    for _ in range(rounds + 1):
        for count in (0, 1, 3):
            controlled = replace(request, controls=request.controls[:count])
            taken_ms.setdefault(count, []).append(_image_ms(engine, controlled))
    engine.close()
    return {count: statistics.median(taken[1:]) for count, taken in taken_ms.items()}


def _image_ms(engine: Engine, request: DenoiseRequest) -> float:
    ended: queue.Queue[Event] = queue.Queue()
    start_s = time.perf_counter()
    engine.submit(request, ended.put)
    event = ended.get(timeout=60)
    assert isinstance(event, Denoised), event
    return 1000 * (time.perf_counter() - start_s)


def _request(catalogue: Catalogue) -> DenoiseRequest:
    """Return a guided request with three controls; the first and the last use the same ControlNet."""
    entry = catalogue.model(None)
    encoders = family_of(entry.family).load_text_encoders(entry, _CPU, ModelHost(_CPU))
    [embeds] = encoders.encode([Text("a red circle", "a red circle")])
    square = np.zeros((128, 128, 3), dtype=np.uint8)
    square[40:90, 40:90] = 255
    edges, mirrored_edges = (canny(image, Annotation("canny")) for image in (square, square[::-1, ::-1].copy()))
    controls = tuple(
        Control(controlnet=name, control_image=control_image, controlnet_conditioning_scale=1.0)
        for name, control_image in (
            ("tiny-canny", edges),
            ("tiny-depth", square),
            ("tiny-canny", mirrored_edges),
        )
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
    by_controls = images_ms(catalogue, options.rounds)
    round_trips = round_trips_ms(options.rounds)
    record(
        "control",
        {
            **{f"round trip, {name}, ms": round(taken_ms, 3) for name, taken_ms in round_trips.items()},
            "plain image, ms": round(by_controls[0], 1),
            "one control over plain": round(by_controls[1] / by_controls[0], 3),
            "three controls over plain": round(by_controls[3] / by_controls[0], 3),
            "54 MB payload, MB": round(sum(2 * channels * side**2 for channels, side in _SDXL) / 1e6, 1),
        },
    )


if __name__ == "__main__":
    main()
