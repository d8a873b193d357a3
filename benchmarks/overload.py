"""Benchmark of overload: many clients at once, while others ask for /ready and /metrics.

`python -m benchmarks.overload` starts the graph, measures the throughput of 16 clients, then sends 2,000 requests at
once. It prints how they were answered, the throughput of those that were admitted relative to the 16 clients, the
slowest answers of /ready and /metrics meanwhile, and the growth of the Router's and the proxy's memory. With
`--nginx`, all requests pass through an nginx with `deploy/nginx.conf`. With `--nothing`, they are sent to an
application that does nothing, which shows what Serve itself takes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse

from benchmarks.graph import running_app, running_graph
from benchmarks.results import record
from deployments.serving import node
from tests.nginx import running_nginx

_NUM_UNLOADED_CLIENTS, _NUM_UNLOADED_REQUESTS = 16, 96
_PROBE_S = 0.5
_PROCESSES = ("ray::ServeReplica:atelier:Router", "ray::ProxyActor", "atelier.imaging.process")


@dataclass(slots=True)
class Seen:
    """What was observed while the clients waited."""

    statuses: Counter[str] = field(default_factory=Counter)
    #: When each image arrived, in seconds since the start.
    images_s: list[float] = field(default_factory=list)
    probes_s: dict[str, float] = field(default_factory=dict)
    failed_probes: int = 0
    memory_mb: float = 0


async def generate(client: aiohttp.ClientSession, seed: int, seen: Seen, started_s: float) -> None:
    """Ask for one image and count how it is answered."""
    try:
        async with client.post("/v1/images/generations", json={"prompt": "a red circle", "seed": seed}) as answer:
            await answer.read()
    except aiohttp.ClientError as error:
        seen.statuses[type(error).__name__] += 1
        return
    says_when = answer.status != 429 or int(answer.headers.get("retry-after", 0)) > 0
    is_ours = answer.content_type == "application/json" and says_when
    seen.statuses[f"{answer.status}{'' if is_ours else ' not in our shape'}"] += 1
    if answer.status == 200:
        seen.images_s.append(time.perf_counter() - started_s)


async def probe(address: str, seen: Seen) -> None:
    """Ask for /ready and /metrics again and again, and read the memory of the Router and the proxy."""
    async with aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(30)) as client:
        while True:
            for path in ("/ready", "/metrics"):
                start = time.perf_counter()
                try:
                    async with client.get(path) as answer:
                        ok = answer.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    ok = False
                finally:
                    seen.probes_s[path] = max(seen.probes_s.get(path, 0), time.perf_counter() - start)
                seen.failed_probes += not ok
            seen.memory_mb = max(seen.memory_mb, memory_mb())
            await asyncio.sleep(_PROBE_S)


def memory_mb() -> float:
    """Return the resident memory of the Router, its image processes and the proxy together."""
    pages = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = process.joinpath("cmdline").read_text()
                if any(name in command for name in _PROCESSES):
                    pages += int(process.joinpath("statm").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(address: str, *, num_requests: int, num_clients: int) -> Seen:
    """Send requests from so many clients at once, and probe the server until all are answered."""
    seen = Seen()
    connections = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(900)
    async with aiohttp.ClientSession(address, connector=connections, timeout=timeout) as client:
        probing = asyncio.create_task(probe(address, seen))
        started_s, seeds = time.perf_counter(), iter(range(num_requests))

        async def work() -> None:
            for seed in seeds:
                await generate(client, seed, seen, started_s)

        await asyncio.gather(*(work() for _ in range(num_clients)))
        probing.cancel()
    return seen


class Nothing:
    """A deployment that answers every request at once."""

    async def __call__(self, _: Request) -> JSONResponse:
        return JSONResponse({})


def nothing() -> Application:
    """Bind a deployment that does nothing, with as much room for requests as the Router has."""
    return node(Nothing, {}, max_ongoing_requests=5000, num_cpus=0).options(max_queued_requests=5000).bind()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--nginx", action="store_true", help="send requests through nginx, which must be installed")
    parser.add_argument("--nothing", action="store_true", help="measure an application that does nothing instead")
    asked = parser.parse_args()
    num_clients = asked.clients
    with ExitStack() as running:
        graph = running_app(nothing()) if asked.nothing else running_graph(num_threads=os.cpu_count() or 1)
        address = running.enter_context(graph)
        if asked.nginx:
            folder = Path(running.enter_context(TemporaryDirectory()))
            server = "server 127.0.0.1:8000;", f"server {address.removeprefix('http://')};"
            address = running.enter_context(running_nginx(folder, server))
        alone = asyncio.run(measure(address, num_requests=_NUM_UNLOADED_REQUESTS, num_clients=_NUM_UNLOADED_CLIENTS))
        at_rest_mb = memory_mb()
        crowd = asyncio.run(measure(address, num_requests=num_clients, num_clients=num_clients))
    rates = [len(seen.images_s) / max(seen.images_s) for seen in (alone, crowd)]
    record(
        "_".join(
            ["overload", *(["of_nothing"] if asked.nothing else []), *(["behind_nginx"] if asked.nginx else [])]
        ),
        {
            "clients": num_clients,
            **{f"answered {status}": count for status, count in sorted(crowd.statuses.items())},
            "unloaded_images_per_s": round(rates[0], 2),
            "admitted_images_per_s": round(rates[1], 2),
            "admitted_over_unloaded": round(rates[1] / rates[0], 3),
            **{f"slowest {path} s": round(seconds, 2) for path, seconds in crowd.probes_s.items()},
            "failed_probes": crowd.failed_probes,
            "memory_above_rest_mb": round(crowd.memory_mb - at_rest_mb),
        },
    )


if __name__ == "__main__":
    main()
