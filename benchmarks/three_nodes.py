"""A Ray cluster of three nodes on this machine, and clients that send mixed requests to a graph on it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.schema import ServeDeploySchema

from benchmarks.graph import NO_CACHE
from benchmarks.mixed_requests import Answers, Request, requests
from deployments.deploy import deploy, status
from deployments.environment import ENVIRONMENT
from deployments.progress import failure, is_running
from tests.integration.replicas import STAGES, Replica, replicas_of
from tests.postgres import find_programs, postgres
from tests.s3 import s3_server

ROOT = Path(__file__).parents[1]
PORT = 8766
DEPLOYMENTS = (*STAGES, "Router")
_NUM_CLIENTS = 16
#: How OpenAI's clients send a request again.
_MAX_SENT, _SENT_AGAIN_AFTER_S = 3, 1


@contextmanager
def three_nodes(
    folder: Path, config: Mapping[str, Any], *, num_gpus: int = 0, **environment: str
) -> Iterator[Callable[[], list[Replica]]]:
    """Run a config on a head and two other nodes, of four CPUs each.

    Yields a function that kills one node, not the one with the proxy, and returns the replicas that were there.
    """
    # `Cluster` writes its address into a folder `ray`, which it expects to be there.
    (folder / "ray").mkdir()
    os.environ |= {**ENVIRONMENT, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(folder), **environment}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": num_gpus})
    victim, _ = (cluster.add_node(num_cpus=4, num_gpus=num_gpus) for _ in range(2))
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)

    def lose_node() -> list[Replica]:
        lost = [one for name in DEPLOYMENTS for one in replicas_of(name) if one.node_id == victim.node_id]
        cluster.remove_node(victim, allow_graceful=False)
        return lost

    try:
        deploy_and_wait(config)
        yield lose_node
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def shared_stores(folder: Path) -> Iterator[dict[str, str]]:
    """Run an S3 server and PostgreSQL. Yields the variables with which the replicas of all nodes use them.

    Raises FileNotFoundError if this machine has no PostgreSQL.
    """
    programs = find_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL's initdb is not installed")
    with s3_server(folder) as s3, postgres(programs) as server:
        s3.make_bucket("images")
        stores = {"ATELIER_BLOBS_URL": "s3://images", "ATELIER_DATABASE_URL": server.new_database("atelier")}
        yield {**s3.environment, **stores}


def deploy_and_wait(config: Mapping[str, Any]) -> None:
    """Deploy a config; returns when every deployment runs. Raises RuntimeError if one cannot."""
    deploy(ServeDeploySchema.model_validate(config))
    while not is_running(now := status()):
        if reason := failure(now):
            raise RuntimeError(reason)
        time.sleep(1)


def zoo_config(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """A config of `configs`, with the zoo's models on the CPU; its replicas share the cores of this machine."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    [application] = config["applications"]
    application["args"] = {name: {"num_threads": 1} for name in ("annotator", "denoiser", "upscaler")}
    application["runtime_env"] = {"env_vars": dict(environment)}
    for deployment in application["deployments"]:
        gpus = {name: value for name, value in deployment["ray_actor_options"].items() if name == "num_gpus"}
        deployment["ray_actor_options"] = {"num_cpus": 0.1, **gpus}
        if limits := NO_CACHE.get(deployment["name"]):
            deployment["user_config"] = {**deployment.get("user_config", {}), **limits}
    config["proxy_location"] = "HeadOnly"
    config["http_options"] |= {"host": "127.0.0.1", "port": PORT}
    return config


class Clients:
    """Clients that send requests until they are stopped."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._is_over = False
        #: How requests were answered.
        self.counts: Counter[str] = Counter()
        #: Number of the request, and when it was sent and answered, of every answer.
        self.taken: list[tuple[int, float, float]] = []
        self._tasks = [asyncio.create_task(self._send(index)) for index in range(_NUM_CLIENTS)]

    async def stop(self) -> None:
        """Wait for the answers to the requests in progress."""
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _send(self, index: int) -> None:
        mixed = requests()
        while not self._is_over:
            number, start_s = index % len(mixed), time.monotonic()
            self.counts[await self._judge(mixed[number])] += 1
            self.taken.append((number, start_s, time.monotonic()))
            index += 5

    async def _judge(self, request: Request) -> str:
        """Judge a request, which is sent again up to twice if its answer says so."""
        for num_before in range(_MAX_SENT):
            answer = await self._answers.judge(request)
            if answer != "retryable error":
                return answer if num_before == 0 or answer != "right" else "right when sent again"
            await asyncio.sleep(_SENT_AGAIN_AFTER_S)
        return answer
