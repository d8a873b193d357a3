"""Deploys a Serve config on the Ray that this process is connected to, as `serve deploy` does."""

from __future__ import annotations

from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema, ServeStatus


def deploy(config: ServeDeploySchema) -> None:
    """Start Serve if it does not run, and let it deploy the config's applications; returns before they are ready."""
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
