"""Every metric of the graph, declared once.

Each metric is exported twice: by Ray's own exporter on every node, as `ray_atelier_…` and some seconds late, and by
`GET /metrics` of the Router, which collects the current values from the replicas.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Gauge as OwnGauge
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from atelier.core.control import TransportName
from deployments.exported import Counter, Declaration, Gauge, Histogram, Registry

if TYPE_CHECKING:
    from atelier.engine.engine import EngineStatus, StepReport
    from atelier.pipeline.record import RequestRecord

_NUM_REQUESTS = (*range(1, 17), 20, 24, 32, 48, 64)
_NUM_ROWS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64)
_STEP_BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_STAGE_BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
_REQUEST_BOUNDS_S = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
_GAP_BOUNDS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)

_REQUESTS = Declaration(
    "atelier_requests_total",
    "counter",
    "Requests by endpoint, HTTP status and error code (`ok` if there was none).",
    labels=("endpoint", "status", "code"),
)
_REQUEST_S = Declaration(
    "atelier_request_seconds",
    "histogram",
    "Time from a request's arrival to the end of its answer.",
    labels=("endpoint",),
    bounds=_REQUEST_BOUNDS_S,
)
_STAGE_S = Declaration(
    "atelier_stage_seconds",
    "histogram",
    "Time that a request spent in a stage; `queue` is its wait for the Denoiser's batch.",
    labels=("stage",),
    bounds=_STAGE_BOUNDS_S,
)
_IMAGES = Declaration("atelier_images_total", "counter", "Images that were generated.")
_CACHED = Declaration("atelier_cached_requests_total", "counter", "Requests whose images came from the cache.")
_REPEATS = Declaration(
    "atelier_repeated_calls_total", "counter", "Calls that were repeated because a replica was lost."
)

#: Metrics of every Router and Worker replica.
ROUTER_METRICS = (_REQUESTS, _REQUEST_S, _STAGE_S, _IMAGES, _CACHED, _REPEATS)

_STEPS = Declaration("atelier_denoiser_steps_total", "counter", "UNet steps.")
_PADDING = Declaration("atelier_denoiser_padding_rows_total", "counter", "Padding rows in calls of exact requests.")
_STEP_REQUESTS = Declaration(
    "atelier_denoiser_step_requests", "histogram", "Number of requests that shared a step.", bounds=_NUM_REQUESTS
)
_STEP_ROWS = Declaration("atelier_denoiser_step_rows", "histogram", "Number of rows in a step.", bounds=_NUM_ROWS)
_STEP_S = Declaration(
    "atelier_denoiser_step_seconds", "histogram", "Duration of a step in seconds.", bounds=_STEP_BOUNDS_S
)
_GAP_S = Declaration(
    "atelier_denoiser_step_gap_seconds",
    "histogram",
    "Time between the end of a step and the start of the next.",
    bounds=_GAP_BOUNDS_S,
)
_CONTROL_FAILURES = {
    name: Declaration(
        f"atelier_denoiser_control_{name}_failures_total",
        "counter",
        f"Steps in which the transport {name} failed.",
    )
    for name in get_args(TransportName)
    if name != "in_process"
}
_WAITING = Declaration("atelier_denoiser_waiting_requests", "gauge", "Requests that wait for the batch.")
_ACTIVE = Declaration("atelier_denoiser_active_requests", "gauge", "Requests in the batch.")

#: Metrics of every Denoiser replica.
DENOISER_METRICS = (
    _STEPS,
    _PADDING,
    _STEP_REQUESTS,
    _STEP_ROWS,
    _STEP_S,
    _GAP_S,
    *_CONTROL_FAILURES.values(),
    _WAITING,
    _ACTIVE,
)


class RouterMetrics:
    """The metrics of the requests of a Router, or of the attempts at jobs of a Worker."""

    def __init__(self) -> None:
        self._registry = registry = Registry()
        self._requests = Counter(registry, _REQUESTS)
        self._request_s = Histogram(registry, _REQUEST_S)
        self._stage_s = Histogram(registry, _STAGE_S)
        self._images = Counter(registry, _IMAGES)
        self._cached = Counter(registry, _CACHED)
        self._repeats = Counter(registry, _REPEATS)

    def observe(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        code = record.code or "ok"
        self._requests.add(1, endpoint=record.endpoint, status=str(record.status), code=code)
        self._request_s.observe(record.total_s, endpoint=record.endpoint)
        for stage, seconds in record.stage_s.items():
            self._stage_s.observe(seconds, stage=stage)
        if record.is_cached:
            self._cached.add(1)
        elif record.code is None and record.num_images is not None:
            self._images.add(record.num_images)
        self._repeats.add(record.num_repeats)

    def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return self._registry.text()


class DenoiserMetrics:
    """The metrics of a Denoiser replica's step loop."""

    def __init__(self) -> None:
        self._registry = registry = Registry()
        self._steps = Counter(registry, _STEPS)
        self._padding = Counter(registry, _PADDING)
        self._requests = Histogram(registry, _STEP_REQUESTS)
        self._rows = Histogram(registry, _STEP_ROWS)
        self._step_s = Histogram(registry, _STEP_S)
        self._gap_s = Histogram(registry, _GAP_S)
        self._control_failures = {name: Counter(registry, metric) for name, metric in _CONTROL_FAILURES.items()}
        self._waiting = Gauge(registry, _WAITING)
        self._running = Gauge(registry, _ACTIVE)

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
        self._running.set(report.num_running)

    def control_failed(self, transport: TransportName) -> None:
        """Count a step in which the given transport to ControlNets failed."""
        self._control_failures[transport].add(1)

    def text(self, status: EngineStatus) -> str:
        """Return all metrics in Prometheus' text format; `status` has the numbers of waiting and running requests."""
        self._waiting.set(status.num_waiting)
        self._running.set(status.num_running)
        return self._registry.text()


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
