"""Every metric of the graph, declared once.

Each metric is exported twice: by Ray's own exporter on every node, as `ray_atelier_…` and some seconds late, and by
`GET /metrics` of the Router, which collects the current values from the replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as OwnCounter
from prometheus_client import Gauge as OwnGauge
from prometheus_client import Histogram as OwnHistogram
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.serve import metrics as ray_metrics

from atelier.core.control import TransportName

if TYPE_CHECKING:
    from atelier.engine.engine import EngineStatus, StepReport
    from atelier.pipeline.record import RequestRecord

_REQUESTS = (*range(1, 17), 20, 24, 32, 48, 64)
_ROWS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64)
_STEP_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_STAGE_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
_REQUEST_S = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
_GAP_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class _Registry:
    """Prometheus registry of one replica, whose id labels all of its time series."""

    def __init__(self) -> None:
        self.own = CollectorRegistry()
        self.replica = serve.get_replica_context().replica_id.unique_id


class _Counter:
    def __init__(self, registry: _Registry, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self._own = OwnCounter(name, text, ["replica", *labels], registry=registry.own)
        self._ray = ray_metrics.Counter(name, description=text, tag_keys=tuple(labels))
        self._replica = registry.replica

    def add(self, amount: float, **labels: str) -> None:
        if amount:
            self._own.labels(self._replica, *labels.values()).inc(amount)
            self._ray.inc(amount, tags=labels)


class _Gauge:
    def __init__(self, registry: _Registry, name: str, text: str) -> None:
        self._own = OwnGauge(name, text, ["replica"], registry=registry.own).labels(registry.replica)
        self._ray = ray_metrics.Gauge(name, description=text)

    def set(self, value: float) -> None:
        self._own.set(value)
        self._ray.set(value)


class _Histogram:
    def __init__(
        self, registry: _Registry, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        self._own = OwnHistogram(name, text, ["replica", *labels], registry=registry.own, buckets=bounds)
        self._ray = ray_metrics.Histogram(name, description=text, boundaries=list(bounds), tag_keys=tuple(labels))
        self._replica = registry.replica

    def observe(self, value: float, **labels: str) -> None:
        self._own.labels(self._replica, *labels.values()).observe(value)
        self._ray.observe(value, tags=labels)


class RouterMetrics:
    """The metrics of a Router replica's requests."""

    def __init__(self) -> None:
        self._registry = registry = _Registry()
        self._requests = _Counter(
            registry,
            "atelier_requests_total",
            "Requests by endpoint, HTTP status and error code (`ok` if there was none).",
            ["endpoint", "status", "code"],
        )
        self._request_s = _Histogram(
            registry,
            "atelier_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            _REQUEST_S,
            ["endpoint"],
        )
        self._stage_s = _Histogram(
            registry,
            "atelier_stage_seconds",
            "Time that a request spent in a stage; `queue` is its wait for the Denoiser's batch.",
            _STAGE_S,
            ["stage"],
        )
        self._images = _Counter(registry, "atelier_images_total", "Images that were generated.")
        self._repeats = _Counter(
            registry, "atelier_repeated_calls_total", "Calls that were repeated because a replica was lost."
        )

    def observe(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        code = record.code or "ok"
        self._requests.add(1, endpoint=record.endpoint, status=str(record.status), code=code)
        self._request_s.observe(record.total_s, endpoint=record.endpoint)
        for stage, seconds in record.stage_s.items():
            self._stage_s.observe(seconds, stage=stage)
        if record.code is None and record.num_images is not None:
            self._images.add(record.num_images)
        self._repeats.add(record.num_repeats)

    def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry.own).decode()


class DenoiserMetrics:
    """The metrics of a Denoiser replica's step loop."""

    def __init__(self) -> None:
        self._registry = registry = _Registry()
        self._steps = _Counter(registry, "atelier_denoiser_steps_total", "UNet steps.")
        self._padding = _Counter(
            registry, "atelier_denoiser_padding_rows_total", "Padding rows in calls of exact requests."
        )
        self._requests = _Histogram(
            registry, "atelier_denoiser_step_requests", "Number of requests that shared a step.", _REQUESTS
        )
        self._rows = _Histogram(registry, "atelier_denoiser_step_rows", "Number of rows in a step.", _ROWS)
        self._step_s = _Histogram(
            registry, "atelier_denoiser_step_seconds", "Duration of a step in seconds.", _STEP_S
        )
        self._gap_s = _Histogram(
            registry,
            "atelier_denoiser_step_gap_seconds",
            "Time between the end of a step and the start of the next.",
            _GAP_S,
        )
        self._control_failures = {
            name: _Counter(
                registry,
                f"atelier_denoiser_control_{name}_failures_total",
                f"Steps in which the transport {name} failed.",
            )
            for name in get_args(TransportName)
            if name != "in_process"
        }
        self._waiting = _Gauge(registry, "atelier_denoiser_waiting_requests", "Requests that wait for the batch.")
        self._running = _Gauge(registry, "atelier_denoiser_active_requests", "Requests in the batch.")

    def observe(self, report: StepReport) -> None:
        """Record a step; the step loop calls it after every step."""
        self._steps.add(1)
        self._padding.add(report.num_padding_rows)
        self._requests.observe(report.num_requests)
        self._rows.observe(report.num_rows)
        self._step_s.observe(report.step_s)
        if report.gap_s is not None:
            self._gap_s.observe(report.gap_s)
        self._waiting.set(report.num_waiting)
        self._running.set(report.num_requests)

    def control_failed(self, transport: TransportName) -> None:
        """Count a step in which the given transport to ControlNets failed."""
        self._control_failures[transport].add(1)

    def text(self, status: EngineStatus) -> str:
        """Return all metrics in Prometheus' text format; `status` has the numbers of waiting and running requests."""
        self._waiting.set(status.num_waiting)
        self._running.set(status.num_running)
        return generate_latest(self._registry.own).decode()


class _Merged:
    """Prometheus collector that joins the time series of several replicas' metrics texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for text in self._texts:
            for family in text_string_to_metric_families(text):
                families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                families[family.name].samples += family.samples
        return families.values()


def merged(texts: Iterable[str], *, is_complete: bool) -> str:
    """Merge the metrics texts of several replicas (Prometheus' format) into one, with one heading per metric.

    A metric of its own tells whether the texts of all replicas are there.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    complete = OwnGauge(
        "atelier_metrics_complete", "Whether every Denoiser returned its metrics, 0 or 1.", registry=registry
    )
    complete.set(is_complete)
    return generate_latest(registry).decode()
