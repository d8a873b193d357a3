"""`python -m tests.integration.two_nodes`: a Ray cluster of two nodes, told by lines of JSON what to do.

It runs in a process of its own, because a process can be on one Ray cluster only. The graph that it deploys has real
Routers and one cheap stage, which enlarges images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from atelier.catalogue.catalogue import read_catalogue
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import Pixels, Upscaled
from deployments.deploy import deploy
from deployments.handles import GraphHandles
from deployments.options import RouterOptions
from deployments.router import Router
from deployments.serving import node

_ROOT = Path(__file__).parents[2]

#: `ray.serve.schema.DeploymentDetails` as JSON.
Routers = dict[str, Any]


class Enlarger:
    """A stage that repeats pixels."""

    async def upscale(self, _: str | None, pixels: Pixels, size: Size, __: Reproducibility) -> Upscaled:
        factor = size.width // pixels.shape[1]
        return Upscaled(np.kron(pixels, np.ones((factor, factor, 1), np.uint8)), "repeated", Origin(""))


def _build() -> serve.Application:
    stage = node(Enlarger, {}, max_ongoing_requests=8, num_cpus=0.1).bind()
    handles = GraphHandles(text_encoder=stage, annotator=stage, denoiser=stage, autoencoder=stage, upscaler=stage)
    router = node(Router, {}, max_ongoing_requests=100, num_cpus=0.1).options(max_queued_requests=100)
    return router.bind(read_catalogue().only(["tiny-sdxl"], [], [], []), RouterOptions(), handles, stage)


app = _build()


class TwoNodes:
    """The cluster in its process. Each method sends one command and returns the answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def deploy(self, config: object) -> None:
        """Deploy a Serve config; returns before its replicas are ready."""
        self._ask(["deploy", config])

    def delete(self) -> None:
        """Delete the application `atelier` and wait until its replicas have stopped."""
        self._ask(["delete", None])

    def routers(self) -> Routers | None:
        """Return the details that Serve's controller has about the Routers, or None if there are none."""
        routers: Routers | None = self._ask(["routers", None])
        return routers

    def replace_second_node(self) -> None:
        """Kill every process of the node that was added to the head, and add another one."""
        self._ask(["replace_second_node", None])

    def _ask(self, command: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the cluster ended with {self._process.poll()}"
        return json.loads(answer)


@contextmanager
def two_nodes(folder: Path, second_port: int) -> Iterator[TwoNodes]:
    """Run the cluster for the time of the context; the second node's proxy listens on `second_port`."""
    # `Cluster` writes its address into a folder `ray`, which it expects to be there.
    (folder / "ray").mkdir()
    environment = {
        "PYTHONPATH": str(_ROOT),
        "RAY_TMPDIR": str(folder),
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(second_port),
    }
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.two_nodes"],
            cwd=_ROOT,
            env={**os.environ, **environment},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        try:
            yield TwoNodes(process)
        finally:
            process.communicate(timeout=60)  # closes stdin, which ends the process


def _main() -> None:
    # What Ray prints goes to the log: stdout carries the answers.
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"head": 1}})
    second = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
    try:
        for line in sys.stdin:
            name, argument = json.loads(line)
            answer = None
            if name == "deploy":
                deploy(ServeDeploySchema.model_validate(argument))
            elif name == "delete":
                serve.delete("atelier")
            elif name == "routers":
                applications = _get_global_client().get_serve_details()["applications"]
                answer = applications.get("atelier", {"deployments": {}})["deployments"].get("Router")
            else:
                cluster.remove_node(second)
                second = cluster.add_node(num_cpus=2)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    _main()
