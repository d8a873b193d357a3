"""One Ray cluster for all integration tests, with one graph on it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import ray
from ray import serve

from graph import build_app
from tests.integration.steps import Steps


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The HTTP address of a graph that runs until the session ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
    limits = {"Router": {"max_body_bytes": 100_000}}
    serve.run(build_app({"denoiser": {"num_threads": 2}}, user_configs=limits), name="atelier", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def steps(address: str) -> Steps:
    return Steps(address)
