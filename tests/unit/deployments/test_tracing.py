"""The spans of a denoising request, the exporter that sends spans, and the parent of FastAPI's span."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span, get_current_span
from ray.serve._private.tracing_utils import _load_span_processors

from atelier.core.conditioning import Conditioning, TextEmbeds
from atelier.core.denoising import (
    DecodedPreview,
    Denoised,
    DenoiseEvent,
    DenoiseRequest,
    Heartbeat,
    Pass,
    RequestId,
    StepEvent,
)
from atelier.core.errors import ReplicaLost
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.sampling import Sampling
from atelier.core.snapshot import Snapshot
from deployments.tracing import otlp, stay_in_serves_trace, traced_stream
from tests.collector import collector

_LATENTS = np.zeros((2, 4, 12, 16), np.float32)
_DENOISED = Denoised(_LATENTS, Origin("place"), queue_s=1e-6)


@dataclass
class _Engine:
    """An engine that emits given events, of which an exception ends the stream."""

    events: list[DenoiseEvent | Exception]
    requests: list[DenoiseRequest] = field(default_factory=list)
    num_running: int = 1

    def open_stream(self, request: DenoiseRequest) -> AbstractAsyncContextManager[AsyncIterator[DenoiseEvent]]:
        self.requests.append(request)
        return self._stream()

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
        async def emitted() -> AsyncIterator[DenoiseEvent]:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event

        yield emitted()


@dataclass
class _Traces:
    """A provider of traces that are all sampled, and the spans that it was given."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    async def denoise(self, request: DenoiseRequest, engine: _Engine) -> list[DenoiseEvent]:
        """Return what a client gets whose call has the span `serve`."""
        with self.provider.get_tracer("serve").start_as_current_span("serve"):
            return await _denoise(request, engine)


async def _denoise(request: DenoiseRequest, engine: _Engine) -> list[DenoiseEvent]:
    async with traced_stream(request, engine.open_stream, lambda: engine.num_running) as events:
        return [event async for event in events]


def _times_of(span: ReadableSpan) -> tuple[int, int]:
    """Start and end of a span in nanoseconds."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> _Traces:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("deployments.tracing.get_tracer", provider.get_tracer)
    return _Traces(provider, exporter)


@pytest.fixture
def request_() -> DenoiseRequest:
    embeds = TextEmbeds(prompt_embeds=np.zeros((77, 8), np.float32), pooled_prompt_embeds=np.zeros(8, np.float32))
    return DenoiseRequest(
        request_id=RequestId("req_1.0a1b2c.2"),
        pass_=Pass(
            model="tiny-sdxl",
            size=Size(width=128, height=96),
            seeds=(1, 2),
            sampling=Sampling(num_inference_steps=30, strength=0.9),
            guidance_scale=1.0,
        ),
        conditioning=Conditioning(positive=embeds, negative=embeds),
    )


def _steps(number: int) -> list[DenoiseEvent | Exception]:
    return [StepEvent(step, number) for step in range(1, number + 1)]


async def test_a_sampled_request_has_spans_of_its_wait_and_of_every_ten_steps(
    traces: _Traces, request_: DenoiseRequest
) -> None:
    await traces.denoise(request_, _Engine([*_steps(23), _DENOISED]))
    spans = traces.spans()
    assert list(spans) == ["queue", "steps 1-10", "steps 11-20", "steps 21-23", "serve"]
    *own, serve = spans.values()
    assert all(span.parent == serve.context for span in own)
    (submitted, admitted), *steps = (_times_of(span) for span in own)
    assert admitted == submitted + 1000
    for (_, end), (start, later_end) in pairwise([(submitted, admitted), *steps]):
        assert end == start < later_end
    (start, end) = _times_of(serve)
    assert start <= submitted
    assert steps[-1][1] <= end
    assert own[2].attributes == {
        "atelier.first_step": 11,
        "atelier.last_step": 20,
        "atelier.running_requests": 1,
    }


async def test_the_span_of_the_call_tells_which_request_it_is(traces: _Traces, request_: DenoiseRequest) -> None:
    await traces.denoise(request_, _Engine([_DENOISED]))
    assert traces.spans()["serve"].attributes == {
        "atelier.request_id": "req_1",
        "atelier.attempt": 2,
        "atelier.model": "tiny-sdxl",
        "atelier.size": "128x96",
        "atelier.steps": 27,
        "atelier.images": 2,
    }


async def test_an_id_of_another_graph_is_kept(traces: _Traces, request_: DenoiseRequest) -> None:
    await traces.denoise(replace(request_, request_id=RequestId("theirs.7")), _Engine([_DENOISED]))
    attributes = traces.spans()["serve"].attributes or {}
    assert (attributes["atelier.request_id"], attributes["atelier.attempt"]) == ("theirs.7", 1)


@pytest.mark.parametrize(("counts", "most"), [([2, 5, 0], 5), ([0, 0, 0], 1)], ids=["shared", "alone"])
async def test_the_most_requests_at_once_are_counted(
    traces: _Traces, request_: DenoiseRequest, counts: list[int], most: int
) -> None:
    engine = _Engine([*_steps(3), _DENOISED])
    with traces.provider.get_tracer("serve").start_as_current_span("serve"):
        async with traced_stream(request_, engine.open_stream, iter(counts).__next__) as events:
            assert [event async for event in events][-1] == _DENOISED
    assert (traces.spans()["steps 1-3"].attributes or {})["atelier.running_requests"] == most


async def test_a_client_gets_the_steps_it_asked_for_and_otherwise_signs_of_life(
    traces: _Traces, request_: DenoiseRequest
) -> None:
    preview, decoded = StepEvent(2, 4, _LATENTS), DecodedPreview(1, np.zeros((2, 96, 128, 3), np.uint8))
    snapshot = Snapshot(step=3, latents=_LATENTS, denoised_1=None, denoised_2=None, origin=Origin("place"))
    saved = StepEvent(3, 4, snapshot=snapshot)
    engine = _Engine([StepEvent(1, 4), preview, decoded, Heartbeat(), saved, StepEvent(4, 4), _DENOISED])
    asked = await traces.denoise(replace(request_, report_steps=True), engine)
    assert asked == engine.events
    expected = [Heartbeat(), preview, decoded, Heartbeat(), saved, Heartbeat(), _DENOISED]
    assert await traces.denoise(request_, engine) == expected
    assert [one.report_steps for one in engine.requests] == [True, True]


@pytest.mark.parametrize("is_on", [True, False])
async def test_the_engine_reports_no_steps_for_a_request_that_is_not_sampled(
    request_: DenoiseRequest, *, is_on: bool
) -> None:
    engine = _Engine([_DENOISED])
    if is_on:
        with TracerProvider(sampler=ALWAYS_OFF).get_tracer("serve").start_as_current_span("serve"):
            assert await _denoise(request_, engine) == [_DENOISED]
    else:
        assert await _denoise(request_, engine) == [_DENOISED]
    assert engine.requests == [request_]
    assert not request_.report_steps


@pytest.mark.parametrize(
    ("num_steps", "names"), [(0, ["queue"]), (12, ["queue", "steps 1-10", "steps 11-12"])], ids=["first", "later"]
)
async def test_a_request_that_fails_has_spans_up_to_its_last_step(
    traces: _Traces, request_: DenoiseRequest, num_steps: int, names: list[str]
) -> None:
    with pytest.raises(ReplicaLost):
        await traces.denoise(request_, _Engine([*_steps(num_steps), ReplicaLost()]))
    *own, serve = traces.spans().values()
    assert [span.name for span in own] == names
    (start, end), (submitted, waited), last = _times_of(serve), _times_of(own[0]), _times_of(own[-1])
    assert start <= submitted < waited <= last[1] <= end


async def test_leaving_the_stream_makes_the_spans(traces: _Traces, request_: DenoiseRequest) -> None:
    engine = _Engine([*_steps(5), _DENOISED])
    with traces.provider.get_tracer("serve").start_as_current_span("serve"):
        async with traced_stream(request_, engine.open_stream, lambda: 1) as events:
            await anext(events)
            await anext(events)
    assert list(traces.spans()) == ["queue", "steps 1-2", "serve"]


async def test_spans_are_sent_to_a_collector_in_one_message(
    monkeypatch: pytest.MonkeyPatch, traces: _Traces, request_: DenoiseRequest
) -> None:
    with collector() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.address)
        [processor] = _load_span_processors("deployments.tracing:otlp", "")
        traces.provider.add_span_processor(processor)
        await traces.denoise(request_, _Engine([*_steps(10), _DENOISED]))
        traces.provider.shutdown()
        assert server.num_messages == 1
        spans = server.spans()
    assert {span.name for span in spans} == {"serve", "queue", "steps 1-10"}
    assert len({span.trace_id for span in spans}) == 1


def test_without_the_extra_the_exporter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ImportError, match=r"pip install 'atelier\[tracing\]'"):
        otlp()


@pytest.fixture
def in_serves_trace() -> Iterator[None]:
    before = propagate.get_global_textmap()
    stay_in_serves_trace()
    yield
    propagate.set_global_textmap(before)


def _parent_of_fastapi(headers: dict[str, str]) -> Span:
    return get_current_span(propagate.extract(headers))


@pytest.mark.usefixtures("in_serves_trace")
def test_a_request_in_serves_trace_stays_there(traces: _Traces) -> None:
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with traces.provider.get_tracer("serve").start_as_current_span("serve") as serve:
        assert _parent_of_fastapi(headers) is serve
        assert _parent_of_fastapi({}) is serve
    assert _parent_of_fastapi(headers).get_span_context().span_id == 0x00F067AA0BA902B7
    assert not _parent_of_fastapi({}).get_span_context().is_valid


@pytest.mark.usefixtures("in_serves_trace")
def test_a_request_that_serve_does_not_sample_is_traced_if_its_headers_ask() -> None:
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("serve").start_as_current_span("serve"):
        assert _parent_of_fastapi(headers).get_span_context().trace_flags.sampled
