"""A Ray of this process with Serve on it, which only this machine reaches.

Import this module before any other that imports Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import deployments.loopback  # noqa: F401 before Ray

# isort: split
import ray
from ray import serve

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
