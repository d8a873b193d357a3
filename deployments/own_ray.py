"""A Ray of this process with Serve on it, which only this machine reaches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import deployments.loopback  # noqa: F401 before Ray

# isort: split
import ray
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema, ServeStatus

from deployments.environment import ENVIRONMENT


@contextmanager
def own_ray() -> Iterator[None]:
    """Start a Ray, whatever other Ray there is; leaving the context ends Serve's requests and stops all processes."""
    os.environ.update(ENVIRONMENT)
    ray.init(address="local", namespace="serve", include_dashboard=False)
    try:
        yield
    finally:
        try:
            serve.shutdown()
        finally:
            ray.shutdown()


def deploy(config: ServeDeploySchema) -> None:
    """Start Serve and let it deploy the config's applications, as `serve run` does; returns before they are ready."""
    client = serve_start(
        http_options=config.http_options.model_dump(),
        proxy_location=config.proxy_location,
        grpc_options=config.grpc_options.model_dump(),
        global_logging_config=config.logging_config,
        controller_options=config.controller_options,
    )
    client.deploy_apps(config, _blocking=False)


def status() -> ServeStatus:
    """Return how far the deployments have come."""
    return serve.status()
