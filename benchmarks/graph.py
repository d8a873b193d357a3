"""The graph, or another application, on its own Ray cluster, for benchmarks over HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.serve import Application

from deployments.environment import ENVIRONMENT
from graph import build_app

PORT = 8765
#: Limits with which all images are made, also those that were made before.
NO_CACHE = {name: {"max_cache_bytes": 0} for name in ("Router", "Worker")}
#: Beginnings of the titles of the graph's processes, by the names in the results.
PROCESSES = {
    **{
        name: f"ray::ServeReplica:atelier:{name}"
        for name in ("Router", "Worker", "TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler")
    },
    "proxy": "ray::ProxyActor",
    "controller": "ray::ServeController",
}


@contextmanager
def running_graph(*, num_threads: int) -> Iterator[str]:
    """Start a graph with `num_threads` Denoiser threads, without its cache of results, and yield its address."""
    with running_app(build_app({"denoiser": {"num_threads": num_threads}}, user_configs=NO_CACHE)) as address:
        yield address


@contextmanager
def running_app(app: Application) -> Iterator[str]:
    """Start an application of Serve, in the environment that clusters have, and yield its address."""
    os.environ.update(ENVIRONMENT)
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(app, name="atelier")
    yield f"http://127.0.0.1:{PORT}"
    serve.shutdown()
    ray.shutdown()
