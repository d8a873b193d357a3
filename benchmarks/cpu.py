"""Where the CPU time of an image goes: by process of the graph, with 16 clients and equal requests.

`python -m benchmarks.cpu` prints milliseconds per image, and what the model alone needs on all cores.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import psutil

from benchmarks.ceiling import Ceiling
from benchmarks.graph import PROCESSES, running_graph
from benchmarks.results import record
from benchmarks.serving import ceiling_images_per_s, equal_requests, images_per_s

_NUM_CLIENTS, _NUM_REQUESTS = 16, 96
#: Parts of the command lines of Ray's own processes, by the names in the results; the first that fits counts.
_RAY = {"gcs_server": "gcs_server", "raylet": "raylet/raylet", "other processes of Ray": "ray"}


def main() -> None:
    num_threads = os.cpu_count() or 1
    bodies = equal_requests(_NUM_REQUESTS)
    with running_graph(num_threads=num_threads) as address:
        asyncio.run(images_per_s(address, bodies[: 2 * _NUM_CLIENTS], num_clients=_NUM_CLIENTS))
        before = _cpu_s()
        rate = asyncio.run(images_per_s(address, bodies, num_clients=_NUM_CLIENTS))
        used_s = _cpu_s() - before
        alone = ceiling_images_per_s(Ceiling(num_threads=num_threads), bodies)
    of_image = {name: round(1000 * seconds / len(bodies), 1) for name, seconds in used_s.most_common()}
    numbers = {f"{name}, ms": taken_ms for name, taken_ms in of_image.items()}
    numbers |= {
        "all processes, ms": round(sum(of_image.values()), 1),
        "the model alone, ms": round(1000 * num_threads / alone, 1),
        "images/s": round(rate, 2),
        "the model alone, images/s": round(alone, 2),
    }
    record("cpu", numbers)


def _cpu_s() -> Counter[str]:
    """Return the CPU time of the graph's processes so far, and of this one as the client, in seconds."""
    used_s: Counter[str] = Counter()
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        times, name = process.info["cpu_times"], _name(process)
        if times is not None and name is not None:
            used_s[name] += times.user + times.system
    return used_s


def _name(process: psutil.Process) -> str | None:
    command = " ".join(process.info["cmdline"] or ())
    if process.pid == os.getpid():
        return "client"
    started = (name for name, title in PROCESSES.items() if command.startswith(title))
    containing = (name for name, part in _RAY.items() if part in command)
    return next(started, None) or next(containing, None)


if __name__ == "__main__":
    main()
