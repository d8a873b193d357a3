"""A collector of spans: an HTTP server on the loopback that receives OTLP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(ThreadingHTTPServer):
    """The server, which keeps every body sent to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.bodies: list[bytes] = []

    @property
    def num_messages(self) -> int:
        return len(self.bodies)

    def spans(self) -> list[Span]:
        """Return the spans of all messages so far."""
        messages = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        resources = [resource for message in messages for resource in message.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        is_traces = self.path == "/v1/traces"
        if is_traces:
            self.server.bodies.append(body)
        self.send_response(200 if is_traces else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector for the time of the context."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
