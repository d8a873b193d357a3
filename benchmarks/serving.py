"""Throughput over HTTP with 1, 4 and 16 clients, compared with diffusers behind FastAPI.

`python -m benchmarks.serving` starts Atelier and the diffusers server on this machine, and sends equal and mixed
requests to each in turn. The same run measures the ceiling, the throughput of the model alone: bare UNet calls with
the fastest number of rows, and one VAE decode per image.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TypedDict

import httpx2
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from atelier.catalogue.catalogue import read_catalogue
from atelier.models.autoencoder import Autoencoder
from atelier.models.loading import Placement
from atelier.models.thread import ModelThread
from benchmarks.engine import BareUNet
from benchmarks.graph import running_graph
from benchmarks.results import record

_BASELINE_PORT = 8766
_CLIENTS = (1, 4, 16)
_WIDTHS = (8, 16, 32)
_CPU = Placement("cpu", "float32")


class Body(TypedDict):
    """The JSON body of a generation, with fields that both Atelier and the diffusers baseline read."""

    prompt: str
    seed: int
    size: str
    n: int
    num_inference_steps: int
    guidance_scale: float


def equal_requests(count: int) -> list[Body]:
    """Return requests that differ only in their seeds."""
    return [
        Body(prompt="a red circle", seed=seed, size="128x128", n=1, num_inference_steps=20, guidance_scale=5.0)
        for seed in range(count)
    ]


def mixed_requests(count: int) -> list[Body]:
    """Return requests with 10 to 30 steps, guidance 1 to 8, two sizes, and one or two images."""
    random = Random(0)
    return [
        Body(
            prompt=random.choice(("a red circle", "a blue ring on the left, white background", "a star")),
            seed=seed,
            size=random.choice(("128x128", "96x128")),
            n=random.choice((1, 2)),
            num_inference_steps=random.randint(10, 30),
            guidance_scale=random.choice((1.0, random.uniform(1.5, 8))),
        )
        for seed in range(count)
    ]


async def images_per_s(address: str, bodies: Sequence[Body], *, num_clients: int) -> float:
    """Measure the throughput of `num_clients` clients, each sending its next request after its previous answer."""
    waiting = iter(bodies)

    async def work(client: httpx2.AsyncClient) -> None:
        for body in waiting:
            answer = await client.post("/v1/images/generations", json=body)
            assert len(answer.raise_for_status().json()["data"]) == body["n"]

    limits = httpx2.Limits(max_connections=num_clients)
    async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        start_s = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(num_clients)))
        return sum(body["n"] for body in bodies) / (time.perf_counter() - start_s)


class Ceiling:
    """Throughput of the model alone: UNet calls with the fastest number of rows, and every image decoded once."""

    def __init__(self, *, num_threads: int) -> None:
        entry = read_catalogue().model("tiny-sdxl")
        self._bare = BareUNet(entry, num_threads=num_threads)
        self._thread = ModelThread("vae", num_threads=num_threads)
        self._vae = self._thread.run(lambda: Autoencoder(entry, _CPU))

    def images_per_s(self, bodies: Sequence[Body]) -> float:
        row_s = {size: self._row_s(size) for size in {body["size"] for body in bodies}}
        decode_s = {size: self._decode_s(size) for size in row_s}
        needed_s = 0.0
        for body in bodies:
            rows = 2 if body["guidance_scale"] > 1 else 1
            needed_s += body["n"] * (
                rows * body["num_inference_steps"] * row_s[body["size"]] + decode_s[body["size"]]
            )
        return sum(body["n"] for body in bodies) / needed_s

    def _row_s(self, size: str) -> float:
        width, height = (int(side) // 8 for side in size.split("x"))
        return min(
            statistics.median(self._bare.call_s(10, num_rows=rows, height=height, width=width)) / rows
            for rows in _WIDTHS
        )

    def _decode_s(self, size: str) -> float:
        width, height = (int(side) // 8 for side in size.split("x"))
        latents = np.random.default_rng(0).standard_normal((1, 4, height, width), dtype=np.float32)
        taken_s = []
        for _ in range(10):
            start_s = time.perf_counter()
            self._thread.run(lambda: self._vae.decode_latents(latents))
            taken_s.append(time.perf_counter() - start_s)
        return statistics.median(taken_s)


async def share_done_after_disconnect(address: str) -> float:
    """Measure the fraction of a request's remaining steps, 0 … 1, that run after its client has disconnected."""
    body = {"prompt": "a red circle", "size": "160x160", "num_inference_steps": 150}
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        before = await _num_steps(client)
        generation = asyncio.create_task(client.post("/v1/images/generations", json=body))
        while (done := await _num_steps(client) - before) < 50:
            await asyncio.sleep(0.01)
        generation.cancel()
        await asyncio.sleep(2)
        return (await _num_steps(client) - before - done) / (150 - done)


async def _num_steps(client: httpx2.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "atelier_denoiser_steps_total"
    )


@contextmanager
def running_baseline(*, num_threads: int) -> Iterator[str]:
    """Run `benchmarks.baseline`, diffusers behind FastAPI, in a process of its own; yields its address."""
    command = [sys.executable, "-m", "benchmarks.baseline", f"--port={_BASELINE_PORT}", f"--threads={num_threads}"]
    address = f"http://127.0.0.1:{_BASELINE_PORT}"
    with subprocess.Popen(command) as server:
        try:
            _wait_until_it_answers(address, server)
            yield address
        finally:
            server.terminate()


def _wait_until_it_answers(address: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            httpx2.get(f"{address}/docs")
        except httpx2.TransportError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("the baseline did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    num_threads = os.cpu_count() or 1
    loads = {"equal": equal_requests(32), "mixed": mixed_requests(32)}
    measured: dict[str, list[float]] = {}
    with (
        running_graph(num_threads=num_threads) as atelier,
        running_baseline(num_threads=num_threads) as baseline,
    ):
        ceiling = Ceiling(num_threads=num_threads)
        asyncio.run(images_per_s(atelier, loads["mixed"], num_clients=16))
        for _ in range(options.rounds):
            for name, bodies in loads.items():
                measured.setdefault(f"{name}_ceiling", []).append(ceiling.images_per_s(bodies))
                for num_clients in _CLIENTS:
                    sent = bodies[: max(8, 2 * num_clients)]
                    for server, address in (("atelier", atelier), ("baseline", baseline)):
                        rate = asyncio.run(images_per_s(address, sent, num_clients=num_clients))
                        measured.setdefault(f"{name}_{num_clients}_{server}", []).append(rate)
        share_done = asyncio.run(share_done_after_disconnect(atelier))
    rates = {name: statistics.median(values) for name, values in measured.items()}
    numbers = {f"{name}_images_per_s": round(rate, 2) for name, rate in rates.items()}
    for name in loads:
        for server in ("atelier", "baseline"):
            share = rates[f"{name}_16_{server}"] / rates[f"{name}_ceiling"]
            numbers[f"{name}_16_{server}_share_of_ceiling"] = round(share, 3)
    numbers["latency_1_atelier_over_baseline"] = round(rates["equal_1_baseline"] / rates["equal_1_atelier"], 3)
    numbers["share_of_work_done_after_leaving"] = round(share_done, 3)
    record("serving", numbers)


if __name__ == "__main__":
    main()
