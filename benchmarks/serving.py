"""Throughput over HTTP with 1, 4 and 16 clients, compared with diffusers behind FastAPI and behind LitServe.

`python -m benchmarks.serving` starts the three servers on this machine, and sends equal and mixed requests to each in
turn; equal ones differ in prompt and seed only. The same run measures `ceiling`, the throughput of the model alone.

Needs `benchmarks/requirements.txt`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import TypedDict

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from atelier.core.geometry import Size
from benchmarks.ceiling import Ceiling
from benchmarks.graph import running_graph
from benchmarks.results import record

_ROUTE = "/v1/images/generations"
_CLIENTS = (1, 4, 16)
#: With fewer, the start and the end of a run, when not all clients wait, would count for much.
_MAX_REQUESTS = 64
_COLOURS = ("red", "green", "blue", "yellow", "purple")
_SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")


class Body(TypedDict):
    """The JSON body of a generation, with fields that both Atelier and the diffusers baseline read."""

    prompt: str
    seed: int
    size: str
    n: int
    num_inference_steps: int
    guidance_scale: float


def equal_requests(count: int) -> list[Body]:
    """Return requests that differ only in their prompts and seeds."""
    return [
        Body(
            prompt=f"a {_COLOURS[seed % len(_COLOURS)]} {_SHAPES[seed % len(_SHAPES)]}",
            seed=seed,
            size="128x128",
            n=1,
            num_inference_steps=20,
            guidance_scale=5.0,
        )
        for seed in range(count)
    ]


def mixed_requests(count: int) -> list[Body]:
    """Return requests with 10 to 30 steps, guidance 1 to 8, two sizes, and one or two images."""
    random = Random(0)
    return [
        Body(
            prompt=f"a {random.choice(_COLOURS)} {random.choice(_SHAPES)} on the left, white background",
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
            answer = await client.post(_ROUTE, json=body)
            assert len(answer.raise_for_status().json()["data"]) == body["n"]

    limits = httpx2.Limits(max_connections=num_clients)
    async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        start_s = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(num_clients)))
        return sum(body["n"] for body in bodies) / (time.perf_counter() - start_s)


def ceiling_images_per_s(ceiling: Ceiling, bodies: Sequence[Body]) -> float:
    """Return the throughput of the model alone on these requests."""
    sizes = {body["size"]: Size.parse(body["size"]) for body in bodies}
    row_s = {name: ceiling.row_s(size) for name, size in sizes.items()}
    decode_s = {name: ceiling.decode_s(size) for name, size in sizes.items()}
    needed_s = 0.0
    for body in bodies:
        num_rows = (2 if body["guidance_scale"] > 1 else 1) * body["num_inference_steps"]
        needed_s += body["n"] * (num_rows * row_s[body["size"]] + decode_s[body["size"]])
    return sum(body["n"] for body in bodies) / needed_s


async def share_done_after_disconnect(address: str) -> float:
    """Measure the fraction of a request's remaining steps, 0 … 1, that run after its client has disconnected."""
    body = {"prompt": "a red circle", "size": "160x160", "num_inference_steps": 150}
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        before = await _num_steps(client)
        generation = asyncio.create_task(client.post(_ROUTE, json=body))
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
def running_baseline(module: str, port: int, *, num_threads: int) -> Iterator[str]:
    """Run one of the servers that Atelier is compared with in a process of its own; yields its address."""
    command = [sys.executable, "-m", module, f"--port={port}", f"--threads={num_threads}"]
    address = f"http://127.0.0.1:{port}"
    # LitServe's workers outlive their server, so all processes of its session are ended.
    with subprocess.Popen(command, start_new_session=True) as server:
        try:
            _wait_until_it_answers(address, server)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def _wait_until_it_answers(address: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            httpx2.post(f"{address}{_ROUTE}", json=equal_requests(1)[0], timeout=60).raise_for_status()
        except httpx2.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"{address} did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    num_threads = os.cpu_count() or 1
    with (
        running_graph(num_threads=num_threads) as atelier,
        running_baseline("benchmarks.baseline", 8766, num_threads=num_threads) as fastapi,
        running_baseline("benchmarks.litserve_baseline", 8767, num_threads=num_threads) as litserve,
    ):
        servers = {"atelier": atelier, "fastapi": fastapi, "litserve": litserve}
        rates = _rates(servers, Ceiling(num_threads=num_threads), num_rounds=options.rounds)
        share_done = asyncio.run(share_done_after_disconnect(atelier))
    numbers = {f"{name} images/s": round(rate, 2) for name, rate in rates.items()}
    for load in ("equal", "mixed"):
        for other in (f"{load} 16 litserve", f"{load} ceiling"):
            numbers[f"{load} 16 atelier over {other}"] = round(rates[f"{load} 16 atelier"] / rates[other], 3)
    numbers["latency of one client, atelier over fastapi"] = round(
        rates["equal 1 fastapi"] / rates["equal 1 atelier"], 3
    )
    numbers["share of work done after leaving"] = round(share_done, 3)
    record("serving", numbers)


def _rates(servers: Mapping[str, str], ceiling: Ceiling, *, num_rounds: int) -> dict[str, float]:
    """Return the median images per second by load, number of clients and server, and the ceiling by load."""
    loads = {"equal": equal_requests(_MAX_REQUESTS), "mixed": mixed_requests(_MAX_REQUESTS)}
    measured: dict[str, list[float]] = defaultdict(list)
    for address in servers.values():
        asyncio.run(images_per_s(address, loads["mixed"][:32], num_clients=16))
    for _ in range(num_rounds):
        for load, bodies in loads.items():
            measured[f"{load} ceiling"].append(ceiling_images_per_s(ceiling, bodies))
            for num_clients in _CLIENTS:
                sent = bodies[: max(8, 4 * num_clients)]
                for server, address in servers.items():
                    rate = asyncio.run(images_per_s(address, sent, num_clients=num_clients))
                    measured[f"{load} {num_clients} {server}"].append(rate)
                    print(f"{load}, {num_clients} clients, {server}: {rate:.2f} images/s", flush=True)
    return {name: statistics.median(rates) for name, rates in measured.items()}


if __name__ == "__main__":
    main()
