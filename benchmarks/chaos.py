"""Benchmark of losses: replicas and a node are lost, one after the other, while 16 clients send mixed requests.

`python -m benchmarks.chaos` runs `configs/high-availability.yaml`, with the zoo's models on the CPU, on three nodes
on this machine: two replicas of every deployment, each on a node of its own, with an S3 server and PostgreSQL. One
replica of each deployment is killed in turn, then one of each is stopped without ending it, then a node is killed.
For each loss it prints how the requests were answered, by how much the answer of one that was in progress came later
than usual, and how long it took until two replicas of every deployment ran again. Clients send a request again if its
answer says so, as OpenAI's do: up to twice. An answer is right if its images are those that the same request got
before: to the bit if it asked for `exact`, otherwise above 60 dB.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import aiohttp
import ray

from benchmarks.mixed_requests import DEADLINE_S, Answers, requests
from benchmarks.results import record
from benchmarks.three_nodes import DEPLOYMENTS, PORT, Clients, shared_stores, three_nodes, zoo_config
from tests.integration.replicas import Replica, freeze, kill, replicas_of

#: Seconds of requests before a loss, and after the graph is whole again.
_BEFORE_S, _AFTER_S = 5, 5
_MAX_RECOVERY_S = 240


def main() -> None:
    record("chaos", {"deadline_s": DEADLINE_S, **measured()})


def measured() -> dict[str, float | int]:
    """Run the graph and lose its parts. Returns the numbers of all losses, each named by its loss."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder, shared_stores(Path(folder)) as environment:
        config = zoo_config("high-availability.yaml", environment)
        for deployment in config["applications"][0]["deployments"]:
            deployment["ray_actor_options"].pop("num_gpus", None)
        with three_nodes(Path(folder), config) as lose_node:
            return asyncio.run(_measure(lose_node))


async def _measure(lose_node: Callable[[], list[Replica]]) -> dict[str, float | int]:
    own_node = ray.get_runtime_context().get_node_id()
    losses: dict[str, Callable[[], list[Replica]]] = {}
    for name in DEPLOYMENTS:
        # The proxy, which is on this process's node, prefers the Router there.
        losses[f"dead {name}"] = lambda name=name: [kill(name, own_node)]  # type: ignore[misc]
    for name in DEPLOYMENTS:
        losses[f"frozen {name}"] = lambda name=name: [freeze(name, own_node)]  # type: ignore[misc]
    losses["lost node"] = lose_node
    numbers: dict[str, float | int] = {}
    late_s: dict[str, list[float]] = defaultdict(list)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}") as client:
        answers = Answers(client)
        for request in requests():
            await answers.expect(request)
        for name, lose in losses.items():
            clients, loss_s, whole_s = await _lose(lose, Clients(answers))
            print(name, dict(clients.counts), f"{loss_s:.1f} s late, whole after {whole_s:.1f} s", flush=True)
            late_s[name.split()[0]].append(loss_s)
            numbers |= {f"{name}: {how}": number for how, number in sorted(clients.counts.items())}
            numbers |= {f"{name}: late, s": round(loss_s, 1), f"{name}: whole after, s": round(whole_s, 1)}
    for how, seconds in late_s.items():
        numbers |= {f"{how}: median, s": round(median(seconds), 1), f"{how}: longest, s": round(max(seconds), 1)}
    return numbers


async def _lose(lose: Callable[[], list[Replica]], clients: Clients) -> tuple[Clients, float, float]:
    """Return the clients, by how much a loss made an answer late, and the time until all was whole."""
    await asyncio.sleep(_BEFORE_S)
    loss_s = time.monotonic()
    lost = await asyncio.to_thread(lose)
    whole_s = await asyncio.to_thread(_until_whole, lost)
    await asyncio.sleep(_AFTER_S)
    await clients.stop()
    return clients, _late_s(clients.taken, loss_s), whole_s


def _late_s(taken: Sequence[tuple[int, float, float]], loss_s: float) -> float:
    """Return by how much the slowest request that a loss met took longer than the median of its equals."""
    usual: dict[int, float] = {}
    for number in {number for number, _, _ in taken}:
        usual[number] = median(end_s - start_s for one, start_s, end_s in taken if one == number)
    return max(end_s - start_s - usual[number] for number, start_s, end_s in taken if start_s <= loss_s < end_s)


def _until_whole(lost: Sequence[Replica]) -> float:
    """Wait until two replicas of every deployment run that were not lost. Returns the seconds it took."""
    start_s = time.monotonic()
    gone = {replica.replica_id for replica in lost}
    while True:
        running = {name: [one for one in replicas_of(name) if one.replica_id not in gone] for name in DEPLOYMENTS}
        if all(len(replicas) == 2 for replicas in running.values()):
            return time.monotonic() - start_s
        if time.monotonic() - start_s > _MAX_RECOVERY_S:
            raise TimeoutError(f"not whole after {_MAX_RECOVERY_S} s: {running}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
