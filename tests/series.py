"""The time series that dashboards and alerts may use, with their labels, as Ray's exporters name them.

Those of Ray and of Serve are compared with a live export by tests/integration/test_exporter.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deployments.exported import SERVE_LABELS, Declaration
from deployments.metrics import DENOISER_METRICS, ROUTER_METRICS
from tests.promql import Labels

_REPLICA = frozenset(SERVE_LABELS)
_DEPLOYMENT = frozenset({"application", "deployment"})

SERVE_SERIES: Mapping[str, Labels] = {
    "ray_serve_autoscaling_target_replicas": _DEPLOYMENT,
    "ray_serve_deployment_status": _DEPLOYMENT,
    "ray_serve_deployment_replica_healthy": _REPLICA,
    "ray_serve_deployment_replica_starts_total": _REPLICA,
    "ray_serve_replica_processing_queries": _REPLICA,
}

NODE_SERIES: Mapping[str, Labels] = {
    "ray_component_rss_bytes": frozenset({"Component", "ip", "pid"}),
    "ray_node_cpu_utilization": frozenset({"ip"}),
    "ray_node_mem_total": frozenset({"ip"}),
    "ray_node_mem_used": frozenset({"ip"}),
}

#: Exported by nodes with a GPU only.
GPU_SERIES: Mapping[str, Labels] = {
    "ray_node_gpus_utilization": frozenset({"ip", "GpuIndex"}),
    "ray_node_gram_available": frozenset({"ip", "GpuIndex"}),
    "ray_node_gram_used": frozenset({"ip", "GpuIndex"}),
}

_PROMETHEUS_SERIES: Mapping[str, Labels] = {"up": frozenset({"instance", "job"})}


def own_series() -> dict[str, Labels]:
    """Return the series of our own metrics."""
    return {name: labels for metric in (*ROUTER_METRICS, *DENOISER_METRICS) for name, labels in _series_of(metric)}


def all_series() -> dict[str, Labels]:
    """Return every series that an expression may use."""
    return {**own_series(), **SERVE_SERIES, **NODE_SERIES, **GPU_SERIES, **_PROMETHEUS_SERIES}


def _series_of(metric: Declaration) -> Iterator[tuple[str, Labels]]:
    labels = frozenset((*SERVE_LABELS, *metric.labels))
    if metric.kind != "histogram":
        yield f"ray_{metric.name}", labels
        return
    yield f"ray_{metric.name}_bucket", labels | {"le"}
    yield from ((f"ray_{metric.name}_{part}", labels) for part in ("sum", "count"))
