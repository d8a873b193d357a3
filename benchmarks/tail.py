"""Latencies under load over HTTP: against diffusers behind FastAPI, against the simulation, and by priority.

`python -m benchmarks.tail` sends equal requests that arrive at random, and prints

- the P99 at 80 % of FastAPI's capacity, relative to FastAPI's own at the same times,
- the P99 at 80 % of the graph's own capacity, relative to what `benchmarks.simulation` predicts for the same times
  from the Denoiser's step times and the mean time outside of it, both measured in that run,
- the P99 of `interactive` requests at 10 % of the capacity while `batch` work fills the Denoiser, relative to theirs
  without it.

Needs `benchmarks/requirements.txt`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from atelier.core.work import StepTime
from benchmarks.graph import running_graph
from benchmarks.results import record
from benchmarks.serving import Body, equal_requests, images_per_s, running_baseline
from benchmarks.simulate import quantile
from benchmarks.simulation.arrivals import Arrival
from benchmarks.simulation.cluster import Cluster, Settings
from deployments.routing import report_of

_ROUTE = "/v1/images/generations"
_LOAD, _INTERACTIVE_LOAD = 0.8, 0.1
_NUM_BATCH_CLIENTS = 12


async def latencies_s(address: str, times_s: Sequence[float], *, priority: str = "standard") -> list[float]:
    """Send a request at each of the times; return how long their answers took."""
    # FastAPI's baseline has no priorities.
    extra = {} if priority == "standard" else {"priority": priority}

    async def send(client: httpx2.AsyncClient, at_s: float, body: Body) -> float:
        await asyncio.sleep(at_s)
        start_s = time.perf_counter()
        (await client.post(_ROUTE, json={**body, **extra})).raise_for_status()
        return time.perf_counter() - start_s

    limits = httpx2.Limits(max_connections=1000)
    async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        bodies = equal_requests(len(times_s))
        return await asyncio.gather(*(send(client, *one) for one in zip(times_s, bodies, strict=True)))


async def beside_batch_work(address: str, times_s: Sequence[float]) -> list[float]:
    """Return the latencies of interactive requests while clients keep the Denoiser full with batch work."""
    is_over = False

    async def fill(client: httpx2.AsyncClient, body: Body) -> None:
        while not is_over:
            (await client.post(_ROUTE, json={**body, "n": 4, "priority": "batch"})).raise_for_status()

    async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
        filling = [asyncio.create_task(fill(client, body)) for body in equal_requests(_NUM_BATCH_CLIENTS)]
        await asyncio.sleep(5)
        taken_s = await latencies_s(address, times_s, priority="interactive")
        is_over = True
        await asyncio.gather(*filling)
    return taken_s


def predicted_s(times_s: Sequence[float], step_time: StepTime, other_s: float) -> list[float]:
    """Return the latencies that the simulation has for requests at these times."""
    settings = Settings(num_replicas=1, step_time=step_time, other_s=other_s)
    outcome = Cluster(settings).run(Arrival(arrival_s=at_s) for at_s in times_s)
    return [latency_s for _, latency_s, _ in outcome.finished]


def _times_s(num: int, rate: float, seed: int) -> list[float]:
    random = Random(seed)
    return list(accumulate(random.expovariate(rate) for _ in range(num)))


async def _seconds(address: str) -> tuple[float, float, float]:
    """Return the number of requests so far, and the sums of their seconds and of those in the Denoiser."""
    async with httpx2.AsyncClient(base_url=address) as client:
        text = (await client.get("/metrics")).text
    sums = {"count": 0.0, "total": 0.0, "denoise": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "atelier_request_seconds_count" and sample.labels["endpoint"] == f"POST {_ROUTE}":
                sums["count"] += sample.value
            elif sample.name == "atelier_request_seconds_sum" and sample.labels["endpoint"] == f"POST {_ROUTE}":
                sums["total"] += sample.value
            elif sample.name == "atelier_stage_seconds_sum" and sample.labels["stage"] == "denoise":
                sums["denoise"] += sample.value
    return sums["count"], sums["total"], sums["denoise"]


def _capacity(address: str) -> float:
    bodies = equal_requests(64)
    asyncio.run(images_per_s(address, bodies[:16], num_clients=16))
    return asyncio.run(images_per_s(address, bodies, num_clients=16))


def _p99(latencies: Sequence[float]) -> float:
    return quantile(latencies, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100, help="number of requests of each measurement")
    num, num_threads = parser.parse_args().requests, os.cpu_count() or 1
    numbers: dict[str, float | int] = {"requests": num}
    with running_graph(num_threads=num_threads) as atelier:
        with running_baseline("benchmarks.baseline", 8766, num_threads=num_threads) as fastapi:
            capacity = _capacity(fastapi)
            times_s = _times_s(num, _LOAD * capacity, seed=1)
            theirs = asyncio.run(latencies_s(fastapi, times_s))
            ours = asyncio.run(latencies_s(atelier, times_s))
        numbers |= {
            "FastAPI, images/s": round(capacity, 3),
            "FastAPI at 80 % of its capacity, P99, s": round(_p99(theirs), 3),
            "Atelier at the same rate, P99, s": round(_p99(ours), 3),
            "Atelier over FastAPI": round(_p99(ours) / _p99(theirs), 3),
        }
        capacity = _capacity(atelier)
        times_s = _times_s(2 * num, _LOAD * capacity, seed=2)
        before = asyncio.run(_seconds(atelier))
        ours = asyncio.run(latencies_s(atelier, times_s))
        count, total_s, denoise_s = (
            after - before for after, before in zip(asyncio.run(_seconds(atelier)), before, strict=True)
        )
        stats = serve.get_deployment_handle("Denoiser", "atelier").record_routing_stats.remote().result()
        predicted = predicted_s(times_s, report_of(stats).step_time, (total_s - denoise_s) / count)
        numbers |= {
            "Atelier, images/s": round(capacity, 3),
            "Atelier at 80 % of its capacity, P99, s": round(_p99(ours), 3),
            "predicted, P99, s": round(_p99(predicted), 3),
            "measured over predicted": round(_p99(ours) / _p99(predicted), 3),
        }
        times_s = _times_s(num // 2, _INTERACTIVE_LOAD * capacity, seed=3)
        alone = asyncio.run(latencies_s(atelier, times_s, priority="interactive"))
        beside = asyncio.run(beside_batch_work(atelier, times_s))
        numbers |= {
            "interactive alone, P99, s": round(_p99(alone), 3),
            "interactive beside batch work, P99, s": round(_p99(beside), 3),
            "beside batch work over alone": round(_p99(beside) / _p99(alone), 3),
        }
    record("tail", numbers)


if __name__ == "__main__":
    main()
