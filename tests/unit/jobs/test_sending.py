"""One attempt to deliver a webhook: what is sent, to which address, and what counts as delivered."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from standardwebhooks import Webhook

from atelier.jobs.receivers import Receivers
from atelier.jobs.sending import Failure, Sender
from atelier.jobs.signatures import secret_of
from tests.receiver import ACCEPTED, Receiver, receiving

_SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
_URL, _BODY = "https://hook.example/path?a=1", b'{"type":"job.succeeded"}'
_PUBLIC, _PRIVATE = "93.184.216.34", "10.0.0.1"
_NOT_PUBLIC = Failure("The host has an address that is not public.")


class _Stream(httpcore2.AsyncMockStream):
    """A connection whose other end accepts whatever it gets."""

    def __init__(self) -> None:
        super().__init__([ACCEPTED])
        self.written = b""
        self.tls_name: str | None = None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        self.written += buffer

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # noqa: ARG002
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        self.tls_name = server_hostname
        return self


class _Network(httpcore2.AsyncNetworkBackend):
    """A network in which every address answers but those that are down."""

    def __init__(self, down: Sequence[str] = ()) -> None:
        self.down = down
        self.hosts: list[str] = []
        self.streams: list[_Stream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        self.hosts.append(host)
        if host in self.down:
            raise httpcore2.ConnectError(f"{host} does not answer")
        self.streams.append(_Stream())
        return self.streams[-1]


#: Sets the addresses that each look-up of a host finds in turn.
Resolve = Callable[..., None]


@pytest.fixture
async def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    def set_answers(*answers: Sequence[str] | OSError) -> None:
        left = list(answers)

        async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            assert host == "hook.example"
            answer = left.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return [(ip_address(one).version, 1, 6, "", (one, port)) for one in answer]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)

    return set_answers


async def _sent(network: _Network, url: str = _URL, *, named: Sequence[str] = ()) -> Failure | None:
    return await Sender(secret_of(_SECRET), Receivers(named), network=network).send(url, "job_1", _BODY)


def _local(**options: Any) -> Sender:
    return Sender(secret_of(_SECRET), Receivers(["127.0.0.1"]), **options)


async def test_a_message_is_signed() -> None:
    async with receiving() as receiver:
        assert await _local().send(receiver.url, "job_1", _BODY) is None
    [received] = receiver.received
    assert Webhook(_SECRET).verify(received.body, dict(received.headers)) == {"type": "job.succeeded"}
    assert (received.path, received.headers["webhook-id"]) == ("/hook", "job_1")
    assert received.headers["content-type"] == "application/json"


async def test_the_connection_goes_to_the_checked_address_and_names_stay(resolve: Resolve) -> None:
    resolve([_PUBLIC])
    network = _Network()
    assert await _sent(network) is None
    assert network.hosts == [_PUBLIC]
    [stream] = network.streams
    assert stream.tls_name == "hook.example"
    head, _, body = stream.written.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path?a=1 HTTP/1.1\r\n")
    assert b"\r\nhost: hook.example\r\n" in head.lower() + b"\r\n"
    assert body == _BODY


@pytest.mark.parametrize(
    "addresses",
    [[_PRIVATE], [_PUBLIC, _PRIVATE], ["::1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"], ["64:ff9b::a00:1"]],
)
async def test_names_of_private_addresses_are_not_called(resolve: Resolve, addresses: Sequence[str]) -> None:
    resolve(addresses)
    network = _Network()
    assert await _sent(network) == _NOT_PUBLIC
    assert network.hosts == []


async def test_a_name_that_changes_its_address_is_checked_at_every_attempt(resolve: Resolve) -> None:
    resolve([_PUBLIC], [_PRIVATE])
    network = _Network()
    sender = Sender(secret_of(_SECRET), Receivers(), network=network)
    assert await sender.send(_URL, "job_1", _BODY) is None
    assert await sender.send(_URL, "job_1", _BODY) == _NOT_PUBLIC
    assert network.hosts == [_PUBLIC]


async def test_private_addresses_are_not_called_even_if_they_were_accepted() -> None:
    network = _Network()
    for url in (f"https://{_PRIVATE}/", "https://[::1]/", "http://127.0.0.1/"):
        assert await _sent(network, url) == _NOT_PUBLIC
    assert network.hosts == []


async def test_named_hosts_may_be_private(resolve: Resolve) -> None:
    resolve([_PRIVATE])
    network = _Network()
    assert await _sent(network, "http://hook.example/", named=["hook.example"]) is None
    assert network.hosts == [_PRIVATE]


async def test_the_next_address_is_tried_when_one_does_not_answer(resolve: Resolve) -> None:
    other = "2606:2800:220:1::1"
    resolve([other, _PUBLIC], [other])
    network = _Network(down=[other])
    assert await _sent(network) is None
    assert network.hosts == [other, _PUBLIC]
    assert await _sent(network) == Failure("cannot connect"), "no address in what the client reads"


async def test_a_host_that_is_not_found_is_a_failure(resolve: Resolve) -> None:
    resolve(OSError("no such host"), [])
    for _ in range(2):
        assert await _sent(_Network()) == Failure("The host has no address.")


@pytest.mark.parametrize("status", [200, 202, 299])
async def test_every_status_of_success_counts_as_delivered(status: int) -> None:
    async with receiving(Receiver([f"HTTP/1.1 {status} Fine\r\ncontent-length: 0\r\n\r\n".encode()])) as receiver:
        assert await _local().send(receiver.url, "job_1", _BODY) is None


@pytest.mark.parametrize(
    ("status", "is_final"), [(300, False), (400, False), (404, False), (410, True), (500, False)]
)
async def test_every_other_status_is_a_failure(status: int, is_final: bool) -> None:
    answer = f"HTTP/1.1 {status} No\r\ncontent-length: 6\r\n\r\nsecret".encode()
    async with receiving(Receiver([answer])) as receiver:
        failure = await _local().send(receiver.url, "job_1", _BODY)
    assert failure == Failure(f"answered with status {status}", is_final)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    async with receiving() as other:
        answer = f"HTTP/1.1 {status} Moved\r\nlocation: {other.url}\r\ncontent-length: 0\r\n\r\n".encode()
        async with receiving(Receiver([answer])) as receiver:
            failure = await _local().send(receiver.url, "job_1", _BODY)
    assert failure == Failure(f"answered with status {status}")
    assert other.received == []


async def test_the_body_of_an_answer_is_not_read() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n"
    async with receiving(Receiver([answer], endless=b"x" * 65536)) as receiver:
        assert await _local(limit_s=30).send(receiver.url, "job_1", _BODY) is None


async def test_a_receiver_without_an_answer_is_left() -> None:
    async with receiving(Receiver([b""])) as receiver, asyncio.timeout(30):
        failure = await _local(limit_s=0.2).send(receiver.url, "job_1", _BODY)
    assert failure == Failure("no answer within 0.2 s")


async def test_headers_without_an_end_are_a_failure() -> None:
    async with receiving(Receiver([b"HTTP/1.1 200 OK\r\n"], endless=b"a: b\r\n" * 1000)) as receiver:
        assert await _local(limit_s=30).send(receiver.url, "job_1", _BODY) == Failure("the answer is not HTTP")


async def test_an_answer_that_is_not_http_is_a_failure() -> None:
    async with receiving(Receiver([b"220 mail.example ESMTP\r\n\r\n"])) as receiver:
        assert await _local().send(receiver.url, "job_1", _BODY) == Failure("the answer is not HTTP")


async def test_a_closed_port_is_a_failure() -> None:
    async with receiving() as receiver:
        url = receiver.url
    assert await _local().send(url, "job_1", _BODY) == Failure("cannot connect")


async def test_a_receiver_that_does_not_answer_the_tls_handshake_is_left() -> None:
    async with receiving() as receiver:
        failure = await _local(limit_s=0.2).send(receiver.url.replace("http:", "https:"), "job_1", _BODY)
    assert failure == Failure("no answer within 0.2 s")


async def test_a_certificate_that_nobody_vouches_for_is_a_failure(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    async with receiving(tls=context) as receiver:
        failure = await _local().send(receiver.url.replace("http:", "https:"), "job_1", _BODY)
    assert failure == Failure("the certificate is not valid")
    assert receiver.received == []


async def test_a_receiver_without_tls_is_a_failure() -> None:
    async with receiving(Receiver(greeting=b"220 mail.example ESMTP\r\n")) as receiver:
        failure = await _local().send(receiver.url.replace("http:", "https:"), "job_1", _BODY)
    assert failure == Failure("TLS failed")


def _self_signed(folder: Path) -> Path:
    """Write a certificate of 127.0.0.1 with its key, and return the file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now, day = datetime.now(UTC), timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    written = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    (folder / "certificate.pem").write_bytes(written)
    return folder / "certificate.pem"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with receiving() as receiver:
        assert await _local().send(receiver.url, "job_1", _BODY) is None
