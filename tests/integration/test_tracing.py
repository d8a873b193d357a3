"""Traces of requests through a running graph, in files and at a collector."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

from docs.pictures.waterfall import Span, read_spans, trace_of
from tests.collector import collector
from tests.integration.test_deploy import free_port
from tests.integration.test_run import running, until
from tests.pictures import as_base64, noise

_CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
_WAIT_S = 30
_STAGES = {
    "TextEncoder encode_texts",
    "Autoencoder encode_latents",
    "Annotator annotate",
    "Denoiser denoise",
    "Autoencoder decode_latents",
    "Upscaler upscale",
}
_ROOT = "replica_handle_request Router __call__"
_CALLS = {f"replica_handle_request {stage}" for stage in _STAGES}
_PROMPT = "a large red circle on the left, white background"
_TRACE, _PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def _graph(folder: Path, tracing: Mapping[str, object], variables: dict[str, str]) -> Iterator[httpx2.Client]:
    """A client of a graph with this `tracing_config` and these environment variables."""
    config = yaml.safe_load(_CONFIG.read_text())
    config["http_options"]["port"] = port = free_port()
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config | tracing))
    with running(file, variables) as process:
        until(process, "Ctrl-C stops the graph.")
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield client


def _generate(client: httpx2.Client, **headers: str) -> httpx2.Response:
    """Generate an image by every stage, in 22 steps; as it has a seed, equal requests would share it."""
    image = as_base64(noise(128, 128))
    fields: dict[str, Any] = {
        "prompt": _PROMPT,
        "seed": 1,
        "init_image": image,
        "strength": 0.9,
        "num_inference_steps": 25,
        "controls": [{"kind": "canny", "image": image, "annotate": True}],
        "upscale": {"scale": 2},
    }
    return client.post("/v1/images/generations", json=fields, headers=headers).raise_for_status()


def _wait_for(found: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not found():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for a Ray; its name is short, because paths of Unix sockets are limited in length."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def trace(tmp_path: Path, ray_folder: Path) -> Iterator[tuple[str, list[Span], str]]:
    """The id of a request, the spans of its trace, and the text of all files of spans."""
    tracing = {"tracing_config": {"enabled": True, "sampling_ratio": 1.0}}
    with _graph(tmp_path, tracing, {"RAY_TMPDIR": str(ray_folder)}) as client:
        request_id = _generate(client).headers["x-request-id"]
        [folder] = ray_folder.glob("ray/session_2*/logs/serve/spans")

        def of_request() -> list[Span]:
            return trace_of(request_id, read_spans(folder))

        _wait_for(lambda: {_ROOT, *_CALLS} <= {span.name for span in of_request()})
        yield request_id, of_request(), "".join(file.read_text() for file in folder.iterdir())


@pytest.mark.slow
def test_a_request_is_one_trace_with_all_stages_its_wait_and_its_steps(
    trace: tuple[str, list[Span], str],
) -> None:
    request_id, spans, text = trace
    by_id = {span.span_id: span for span in spans}
    assert len({span.trace_id for span in spans}) == 1
    [root] = [span for span in spans if span.parent_id not in by_id]
    assert (root.name, root.parent_id) == (_ROOT, None)
    calls = {span.name: span for span in spans if span.name.startswith("replica_handle_request")}
    assert calls.keys() == {_ROOT, *_CALLS}
    assert {span.attributes["request_id"] for span in calls.values()} == {request_id}

    denoise = calls["replica_handle_request Denoiser denoise"]
    own = sorted(
        (span for span in spans if span.parent_id == denoise.span_id), key=lambda span: (span.start_ms, span.end_ms)
    )
    assert [span.name for span in own] == ["queue", "steps 1-10", "steps 11-20", "steps 21-22"]
    assert denoise.start_ms <= own[0].start_ms
    assert all(span.start_ms <= span.end_ms <= denoise.end_ms for span in own)
    assert {name: value for name, value in denoise.attributes.items() if name.startswith("atelier.")} == {
        "atelier.request_id": request_id,
        "atelier.attempt": 1,
        "atelier.model": "tiny-sdxl",
        "atelier.size": "128x128",
        "atelier.steps": 22,
        "atelier.images": 1,
    }
    assert _PROMPT not in text


@pytest.mark.long
def test_only_requests_whose_headers_ask_are_traced_from_the_proxy_on_and_sent(tmp_path: Path) -> None:
    with collector() as server:
        variables = {
            "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "deployments.tracing:otlp",
            "RAY_SERVE_TRACING_SAMPLING_RATIO": "0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.address,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with _graph(tmp_path, {}, variables) as client:
            _generate(client)
            _generate(client, traceparent=f"00-{_TRACE}-{_PARENT}-01")

            def sent() -> dict[str, SentSpan]:
                return {span.name: span for span in server.spans()}

            proxy = "proxy_http_request Router POST /v1/images/generations"
            _wait_for(lambda: {proxy, "queue", "steps 1-10", _ROOT, *_CALLS} <= sent().keys())
            assert sent()[proxy].parent_span_id.hex() == _PARENT
            assert {span.trace_id.hex() for span in server.spans()} == {_TRACE}
            known = {_PARENT, *(span.span_id.hex() for span in server.spans())}
            assert {span.parent_span_id.hex() for span in server.spans()} <= known
