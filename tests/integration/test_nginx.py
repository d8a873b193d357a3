"""`deploy/nginx.conf`, run by nginx in front of a small server that shows what reaches it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from atelier.core.errors import BodyTooLarge, QueueFull
from deployments.limits import RouterLimits
from tests.nginx import NGINX, running_nginx

_WAIT_S = 10

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")


class _Upstream(BaseHTTPRequestHandler):
    """Answers with the request's headers, except on the paths that tests use for other behaviour."""

    protocol_version = "HTTP/1.1"
    received: list[str]
    go_on: threading.Event

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.received.append(self.path)
        if self.path == "/lost":
            self.close_connection = True
            return
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/silent":
            self.go_on.wait(_WAIT_S)
        self._answer()

    def _answer(self) -> None:
        if self.path == "/stream":
            self._stream()
            return
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(429 if self.path == "/busy" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-accel-buffering", "no")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        self.go_on.wait(_WAIT_S)
        self.wfile.write(b"data: last\n\n")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    _Upstream.received, _Upstream.go_on = [], threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture
def nginx(upstream: ThreadingHTTPServer, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A client of an nginx that runs the file, with times of seconds and two requests in progress."""
    # Twice, so that nginx could send a lost request to the other one.
    servers = f"server 127.0.0.1:{upstream.server_port};" * 2
    replacements = (
        ("server 127.0.0.1:8000;", servers),
        ("client_body_timeout 20s;", "client_body_timeout 1s;"),
        ("proxy_read_timeout 600s;", "proxy_read_timeout 3s;"),
        ("limit_conn atelier 128;", "limit_conn atelier 2;"),
    )
    with (
        running_nginx(tmp_path, *replacements) as address,
        httpx2.Client(base_url=address, timeout=_WAIT_S) as client,
    ):
        yield client


def test_answers_and_errors_pass_as_they_are(nginx: httpx2.Client) -> None:
    answer = nginx.post("/busy", json={}, headers={"x-request-id": "mine-1", "host": "images.example.org"})
    assert answer.status_code == 429
    sent = answer.json()
    assert (sent["x-request-id"], sent["host"]) == ("mine-1", "images.example.org")
    assert len(nginx.get("/").json()["x-request-id"]) == 32


def test_addresses_that_a_client_claims_do_not_pass(nginx: httpx2.Client) -> None:
    sent = nginx.get("/", headers={"x-forwarded-for": "8.8.8.8", "x-forwarded-proto": "https"}).json()
    assert (sent["x-forwarded-for"], sent["x-forwarded-proto"]) == ("127.0.0.1", "http")


def test_the_largest_body_is_that_of_the_router(nginx: httpx2.Client) -> None:
    limit = RouterLimits().max_body_bytes
    assert nginx.post("/", content=bytes(limit)).status_code == 200
    answer = nginx.post("/", content=bytes(limit + 1), headers={"x-request-id": "mine-2"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (413, BodyTooLarge.code, BodyTooLarge.type)
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"] == "mine-2"
    assert _Upstream.received == ["/"]


def test_a_slow_upload_does_not_reach_the_server_and_is_ended(nginx: httpx2.Client, tmp_path: Path) -> None:
    with socket.create_connection((nginx.base_url.host, nginx.base_url.port or 0), _WAIT_S) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nthe first part")
        assert connection.recv(100) == b""
    assert _Upstream.received == []
    assert '" 408 ' in (tmp_path / "access.log").read_text()


def test_events_arrive_when_they_are_sent(nginx: httpx2.Client) -> None:
    with nginx.stream("GET", "/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: first"
        _Upstream.go_on.set()
        assert "data: last" in list(lines)


def test_a_lost_request_is_not_sent_twice(nginx: httpx2.Client) -> None:
    answer = nginx.post("/lost", json={}, headers={"x-request-id": "mine-3"})
    assert (answer.status_code, answer.headers["content-type"]) == (502, "application/json")
    assert answer.headers["x-request-id"] == "mine-3"
    error = answer.json()["error"]
    assert (error["code"], error.keys()) == ("server_unavailable", {"message", "type", "param", "code"})
    assert _Upstream.received == ["/lost"]


def test_a_server_that_does_not_answer_is_given_up(nginx: httpx2.Client) -> None:
    answer = nginx.post("/silent", json={})
    _Upstream.go_on.set()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "no_answer_in_time")
    assert answer.headers["x-should-retry"] == "false"


def test_more_requests_than_the_server_can_hold_are_rejected_and_others_answered(nginx: httpx2.Client) -> None:
    with ThreadPoolExecutor(2) as clients:
        held = [clients.submit(nginx.post, "/silent", json={}) for _ in range(2)]
        while len(_Upstream.received) < len(held):
            time.sleep(0.01)
        answer = nginx.post("/silent", json={}, headers={"x-request-id": "mine-4"})
        assert nginx.get("/").status_code == 200
        _Upstream.go_on.set()
        assert {request.result().status_code for request in held} == {200}
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (429, QueueFull.code, QueueFull.type)
    assert error.keys() == {"message", "type", "param", "code"}
    assert (answer.headers["retry-after"], answer.headers["x-request-id"]) == ("5", "mine-4")
    assert nginx.post("/", json={}).status_code == 200
