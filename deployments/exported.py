"""Metrics that are exported twice: by Ray's exporter of the node, and as text by the replica itself.

A declaration says what a metric is; it is made once, at import, and starts nothing. A replica makes its metrics from
declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as OwnCounter
from prometheus_client import Gauge as OwnGauge
from prometheus_client import Histogram as OwnHistogram
from ray import serve
from ray.serve import metrics as ray_metrics

#: Labels that every metric has in Ray's exporter; of these, the replica's own text has only `replica`.
SERVE_LABELS = ("application", "deployment", "replica")


@dataclass(frozen=True, slots=True)
class Declaration:
    """The name, kind, description and labels of a metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    #: Labels besides SERVE_LABELS.
    labels: tuple[str, ...] = ()
    #: Upper bounds of a histogram's buckets, ascending and without infinity; empty for the other kinds.
    bounds: tuple[float, ...] = ()


class Registry:
    """The metrics of one replica, whose id labels all of its time series."""

    def __init__(self) -> None:
        self.own = CollectorRegistry()
        self.replica = serve.get_replica_context().replica_id.unique_id

    def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.own).decode()


class Counter:
    """A counter of one replica."""

    def __init__(self, registry: Registry, metric: Declaration) -> None:
        self._own = OwnCounter(metric.name, metric.text, ["replica", *metric.labels], registry=registry.own)
        self._ray = ray_metrics.Counter(metric.name, description=metric.text, tag_keys=metric.labels)
        self._replica = registry.replica

    def add(self, amount: float, **labels: str) -> None:
        """Add to the counter; Ray's exporter shows a counter from its first amount above zero."""
        if amount:
            self._own.labels(replica=self._replica, **labels).inc(amount)
            self._ray.inc(amount, tags=labels)


class Gauge:
    """A gauge of one replica, without labels of its own."""

    def __init__(self, registry: Registry, metric: Declaration) -> None:
        self._own = OwnGauge(metric.name, metric.text, ["replica"], registry=registry.own).labels(registry.replica)
        self._ray = ray_metrics.Gauge(metric.name, description=metric.text)

    def set(self, value: float) -> None:
        """Set the gauge."""
        self._own.set(value)
        self._ray.set(value)


class Histogram:
    """A histogram of one replica."""

    def __init__(self, registry: Registry, metric: Declaration) -> None:
        self._own = OwnHistogram(
            metric.name, metric.text, ["replica", *metric.labels], registry=registry.own, buckets=metric.bounds
        )
        self._ray = ray_metrics.Histogram(
            metric.name, description=metric.text, boundaries=list(metric.bounds), tag_keys=metric.labels
        )
        self._replica = registry.replica

    def observe(self, value: float, **labels: str) -> None:
        """Count a value in its bucket."""
        self._own.labels(replica=self._replica, **labels).observe(value)
        self._ray.observe(value, tags=labels)
