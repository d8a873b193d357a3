"""Benchmark of hostile requests: what each costs the server, and others meanwhile.

`python -m benchmarks.attacks` starts the graph and sends each attack of `tests.security` while another client
generates one image after another. It prints for each attack the seconds until it was answered, the growth of the
memory of the Router, its image processes and the proxy, and the other client's slowest image during the attack
relative to its slowest without.
"""

from __future__ import annotations

import asyncio
import os
import time

import httpx2
from tqdm import tqdm

from benchmarks.graph import running_graph
from benchmarks.overload import memory_mb
from benchmarks.results import record
from tests.security.attack_requests import ATTACKS, Attack

_NUM_IMAGES = 6
_SAMPLE_S = 0.02
_REST_S = 1.0


async def generate(client: httpx2.AsyncClient) -> float:
    """Generate an image and return the seconds it took."""
    start = time.perf_counter()
    (await client.post("/v1/images/generations", json={"prompt": "a red circle", "seed": 1})).raise_for_status()
    return time.perf_counter() - start


async def attack(client: httpx2.AsyncClient, hostile: Attack) -> float:
    """Send an attack and return the seconds until all of its requests were answered. Raises for other statuses."""
    body, start = hostile.body(), time.perf_counter()
    sent = (client.post(hostile.path, content=body, headers=hostile.headers) for _ in range(hostile.at_once))
    statuses = {answer.status_code for answer in await asyncio.gather(*sent)}
    if not statuses <= {hostile.status, 429}:
        raise RuntimeError(f"{hostile.name}: answered with {statuses}, not {hostile.status}")
    return time.perf_counter() - start


async def measure(address: str, hostile: Attack) -> dict[str, float]:
    """Return the costs of one attack."""
    async with httpx2.AsyncClient(base_url=address, timeout=300) as client:
        alone_s = max([await generate(client) for _ in range(_NUM_IMAGES)])
        before_mb = most_mb = memory_mb()
        attacking = asyncio.create_task(attack(client, hostile))
        others_s: list[float] = []
        generating = asyncio.create_task(generate(client))
        while not attacking.done():
            most_mb = max(most_mb, memory_mb())
            await asyncio.wait([attacking, generating], timeout=_SAMPLE_S, return_when=asyncio.FIRST_COMPLETED)
            if generating.done():
                others_s.append(await generating)
                generating = asyncio.create_task(generate(client))
        others_s.append(await generating)
    return {
        f"{hostile.name}: s": round(await attacking, 2),
        f"{hostile.name}: MB": round(most_mb - before_mb),
        f"{hostile.name}: others": round(max(others_s) / alone_s, 2),
    }


async def measure_all(address: str) -> dict[str, float]:
    """Return the costs of every attack, one after another."""
    costs: dict[str, float] = {}
    for hostile in tqdm(ATTACKS):
        costs |= await measure(address, hostile)
        await asyncio.sleep(_REST_S)
    return costs


def main() -> None:
    with running_graph(num_threads=os.cpu_count() or 1) as address:
        record("attacks", asyncio.run(measure_all(address)))


if __name__ == "__main__":
    main()
