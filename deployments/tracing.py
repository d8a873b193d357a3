"""Traces of requests: what the graph adds to the spans of Serve, and the exporter that sends spans by OTLP.

Serve makes spans of its proxies and of every call between deployments. The engine and the pipeline know nothing of
traces: the spans of a denoising request are made here, from the times at which its events arrive.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from opentelemetry.context import Context, get_current
from opentelemetry.propagate import get_global_textmap, set_global_textmap
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, get_current_span, get_tracer, set_span_in_context

from atelier.core.denoising import Denoised, DenoiseEvent, DenoiseRequest, Heartbeat, StepEvent

#: Opens the events of a request.
OpenStream = Callable[[DenoiseRequest], AbstractAsyncContextManager[AsyncIterator[DenoiseEvent]]]

#: Number of steps that share a span.
_STEPS = 10
#: The pipeline's id of a call: the request's, a random part for each pass, and a number above 1 after a lost replica.
_CALL_ID = re.compile(r"(.+)\.[0-9a-f]{6}\.(\d+)")


def traced_stream(
    request: DenoiseRequest, open_stream: OpenStream, num_running: Callable[[], int]
) -> AbstractAsyncContextManager[AsyncIterator[DenoiseEvent]]:
    """Open the events of a request, which become spans below the current one if that is sampled.

    A client that did not ask for steps gets a `Heartbeat` in place of each. `num_running` returns the number of
    requests in the engine's batches. Without a sampled trace this is `open_stream(request)`.
    """
    parent = get_current_span()
    return _traced(request, open_stream, num_running, parent) if parent.is_recording() else open_stream(request)


@asynccontextmanager
async def _traced(
    request: DenoiseRequest, open_stream: OpenStream, num_running: Callable[[], int], parent: Span
) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
    parent.set_attributes(_attributes(request))
    times = _Times(num_running)

    async def watched(events: AsyncIterator[DenoiseEvent]) -> AsyncIterator[DenoiseEvent]:
        async for event in events:
            times.add(event)
            is_bare = isinstance(event, StepEvent) and event.preview is None and event.snapshot is None
            yield Heartbeat() if is_bare and not request.report_steps else event

    try:
        async with open_stream(replace(request, report_steps=True)) as events:
            yield watched(events)
    finally:
        times.make_spans(set_span_in_context(parent))


def _attributes(request: DenoiseRequest) -> dict[str, str | int]:
    """Return what a trace says about a request, which is never its prompts."""
    call = _CALL_ID.fullmatch(request.request_id)
    request_id, attempt = (request.request_id, 1) if call is None else (call[1], int(call[2]))
    return {
        "atelier.request_id": request_id,
        "atelier.attempt": attempt,
        "atelier.model": request.pass_.model,
        "atelier.size": str(request.pass_.size),
        "atelier.steps": request.pass_.sampling.num_evaluations,
        "atelier.images": len(request.pass_.seeds),
    }


@dataclass(slots=True)
class _Steps:
    """Up to ten steps in succession; times are Unix times in nanoseconds."""

    first: int
    last: int
    start_ns: int
    end_ns: int
    #: Largest number of requests in the engine's batches when one of the steps was done.
    num_requests: int


class _Times:
    """When a request was submitted and when its events arrived."""

    def __init__(self, num_running: Callable[[], int]) -> None:
        self._num_running = num_running
        self._submitted_ns = time.time_ns()
        #: Time of the admission, at first that of the first step's end.
        self._admitted_ns: int | None = None
        self._groups: list[_Steps] = []

    def add(self, event: DenoiseEvent) -> None:
        now_ns = time.time_ns()
        if isinstance(event, Denoised):
            self._admitted_ns = self._submitted_ns + round(event.queue_s * 1e9)
        elif isinstance(event, StepEvent):
            self._admitted_ns = self._admitted_ns or now_ns
            self._add_step(event.step, now_ns)

    def _add_step(self, step: int, now_ns: int) -> None:
        num_requests = max(1, self._num_running())  # a request leaves its batch with its last step
        if (step - 1) % _STEPS == 0:
            start_ns = self._groups[-1].end_ns if self._groups else now_ns
            self._groups.append(_Steps(step, step, start_ns, now_ns, num_requests))
        group = self._groups[-1]
        group.last, group.end_ns, group.num_requests = step, now_ns, max(group.num_requests, num_requests)

    def make_spans(self, parent: Context) -> None:
        """Make the span `queue`, and one for every ten steps.

        Of a request that failed, the time of the admission is not known: `queue` lasts until its first step is done,
        or until now.
        """
        admitted_ns = self._admitted_ns or time.time_ns()
        _make_span("queue", parent, self._submitted_ns, admitted_ns, {})
        for group in self._groups:
            start_ns = admitted_ns if group.first == 1 else group.start_ns
            attributes = {
                "atelier.first_step": group.first,
                "atelier.last_step": group.last,
                "atelier.running_requests": group.num_requests,
            }
            _make_span(f"steps {group.first}-{group.last}", parent, start_ns, group.end_ns, attributes)


def _make_span(name: str, parent: Context, start_ns: int, end_ns: int, attributes: dict[str, int]) -> None:
    span = get_tracer(__name__).start_span(name, parent, attributes=attributes, start_time=start_ns)
    span.end(end_ns)


def otlp() -> list[SpanProcessor]:
    """Return the processor that sends a process's spans by OTLP over HTTP, for Serve's exporter import path.

    It reads OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT. Raises ImportError if the extra
    `tracing` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ImportError(
            "deployments.tracing:otlp needs the extra `tracing`: run pip install 'atelier[tracing]' on every node. "
            "Without an exporter_import_path spans are written to files."
        ) from error
    return [BatchSpanProcessor(OTLPSpanExporter())]


def stay_in_serves_trace() -> None:
    """Let the HTTP application of this process continue the trace of Serve's span."""
    set_global_textmap(ServeFirst([get_global_textmap()]))


class ServeFirst(CompositePropagator):
    """Propagator that continues the trace of Serve's span if there is one, and otherwise the trace in the headers.

    FastAPI asks the process's propagator for the parent of its span. One that reads headers alone would let a request
    leave Serve's trace where FastAPI begins.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        if get_current_span(context).is_recording():
            return get_current() if context is None else context
        return super().extract(carrier, context, getter)
