"""What Ray's exporter and `GET /metrics` have of a running graph is what dashboards, alerts and pages say."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict

import httpx2
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics import DENOISER_METRICS, ROUTER_METRICS
from tests.promql import Labels
from tests.series import NODE_SERIES, SERVE_SERIES, own_series

_WAIT_S = 60
_DECLARED = {metric.name: metric for metric in (*ROUTER_METRICS, *DENOISER_METRICS)}
#: Ray's exporter has counters from their first event on; one fast generation moves none of these.
_RARE = re.compile(
    "ray_atelier_(repeated_calls|cached_requests|denoiser_padding_rows|denoiser_control_.*_failures)_total"
)


async def _generate(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address, timeout=_WAIT_S) as client:
        answer = await client.post("/v1/images/generations", json={"prompt": "a red circle", "size": "64x64"})
    answer.raise_for_status()


async def _exported() -> str:
    [node] = ray.nodes()
    async with httpx2.AsyncClient(timeout=_WAIT_S) as client:
        return (await client.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")).text


def _labels(text: str) -> dict[str, Labels]:
    """Return the labels that all samples of a name have, by name."""
    found = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append(frozenset(sample.labels))
    return {name: frozenset.intersection(*labels) for name, labels in found.items()}


@pytest.mark.slow
async def test_ray_exports_the_series_that_expressions_use(address: str) -> None:
    await _generate(address)
    own = {name: labels for name, labels in own_series().items() if not _RARE.fullmatch(name)}
    expected = {**SERVE_SERIES, **NODE_SERIES, **own}
    async with asyncio.timeout(_WAIT_S):
        while not expected.keys() <= (found := _labels(await _exported())).keys():
            await asyncio.sleep(0.5)
    assert {name: labels - found[name] for name, labels in expected.items() if labels - found[name]} == {}
    assert {name for name in found if name.startswith("ray_atelier_")} <= own_series().keys()


@pytest.mark.slow
async def test_the_memory_of_a_replica_is_found_by_its_deployment(address: str) -> None:
    await _generate(address)
    replica = re.compile(
        r'^ray_component_rss_bytes{Component="ray::.*ServeReplica:atelier:Denoiser(\..*)?"', re.MULTILINE
    )
    async with asyncio.timeout(_WAIT_S):
        while not replica.search(await _exported()):
            await asyncio.sleep(0.5)


async def test_a_router_returns_every_declared_metric(address: str) -> None:
    await _generate(address)
    async with httpx2.AsyncClient(base_url=address, timeout=_WAIT_S) as client:
        text = (await client.get("/metrics")).text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    created = {f"{name.removesuffix('_total')}_created" for name in _DECLARED}
    found = {name: kind for name, kind in kinds.items() if name not in created}
    assert found == {name: metric.kind for name, metric in _DECLARED.items()} | {"atelier_metrics_complete": "gauge"}
    for name, labels in _labels(text).items():
        metric = _DECLARED.get(name)
        assert metric is None or labels == {"replica", *metric.labels}
