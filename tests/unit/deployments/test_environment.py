"""Whatever starts a Ray for the graph sets the variables that Serve's own processes need."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray._common.utils import import_attr

from deployments.environment import ENVIRONMENT
from deployments.proxy import middleware

_ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/Dockerfile", "docs/cluster.md"])
def test_clusters_are_started_with_every_variable(name: str) -> None:
    text = (_ROOT / name).read_text()
    assert [variable for variable, value in ENVIRONMENT.items() if f"{variable}={value}" not in text] == []


def test_serve_finds_the_middleware_of_its_proxies() -> None:
    assert import_attr(ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]) is middleware
