"""Benchmark of a long run: does anything grow?

`python -m benchmarks.soak` runs the default graph for ten minutes with 16 clients of mixed requests. Every 20 seconds
it reads the resident memory and the open descriptors of every replica and of Serve's proxy and controller, and the
size of what the graph keeps in temporary folders apart from logs. It prints the values after two minutes and at the
end, and the growth per minute between them by linear regression.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import ray

from benchmarks.graph import PROCESSES, running_graph
from benchmarks.mixed_requests import Answers, Request, requests
from benchmarks.results import record
from deployments.settings import Settings

_NUM_CLIENTS = 16
_SAMPLE_S, _WARM_S = 20, 120
_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    seconds = parser.parse_args().minutes * 60
    with running_graph(num_threads=1) as address:
        counts, samples = asyncio.run(_run(address, seconds))
    numbers: dict[str, float | int] = {"clients": _NUM_CLIENTS, "seconds": round(seconds)}
    numbers |= {f"answers {kind}": count for kind, count in sorted(counts.items())}
    for name, values in samples.items():
        times_s, measured = np.array([(at_s, value) for at_s, value in values if at_s >= _WARM_S]).T
        slope = np.polynomial.Polynomial.fit(times_s / 60, measured, 1).convert().coef[1]
        numbers |= {
            f"{name} after two minutes": round(measured[0], 1),
            f"{name} at the end": round(measured[-1], 1),
            f"{name} growth per minute": round(slope, 2),
        }
    record("soak", numbers)


async def _run(address: str, seconds: float) -> tuple[Counter[str], Mapping[str, list[tuple[float, float]]]]:
    """Send requests for so long. Returns how they were answered, and the samples by name with their time."""
    counts: Counter[str] = Counter()
    samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
    start_s, seeds = time.monotonic(), itertools.count()
    async with aiohttp.ClientSession(address) as client:
        answers = Answers(client)

        async def work() -> None:
            while time.monotonic() - start_s < seconds:
                seed = next(seeds)
                request = requests()[seed % len(requests())]
                body = {**request.body, "seed": seed} if "seed" in request.body else request.body
                counts[await answers.kind(Request(request.path, body))] += 1

        clients = [asyncio.create_task(work()) for _ in range(_NUM_CLIENTS)]
        while not all(client.done() for client in clients):
            at_s = time.monotonic() - start_s
            for name, value in (await asyncio.to_thread(_sample)).items():
                samples[name].append((at_s, value))
            await asyncio.sleep(_SAMPLE_S)
    return counts, samples


def _sample() -> dict[str, float]:
    values = {"temporary files MiB": _size_of(_kept_folders()) / _MIB}
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        name = next((name for name, beginning in PROCESSES.items() if title.startswith(beginning)), None)
        if name is not None:
            values[f"{name} MiB"] = process.memory_info().rss / _MIB
            values[f"{name} descriptors"] = process.num_fds()
    return values


def _kept_folders() -> list[Path]:
    """Folders of Ray's session but for its logs, which Ray rotates, and the folder of images behind URLs."""
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    blobs = Path(Settings().blobs_url.removeprefix("file://"))
    return [*(folder for folder in session.iterdir() if folder.name != "logs"), blobs]


def _size_of(folders: list[Path]) -> int:
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()
