"""One attempt to deliver a webhook: a signed POST, of whose answer only the status is read."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpcore2

from atelier.jobs.connections import CheckedConnections, HostNotFound, HostNotPublic
from atelier.jobs.receivers import Receivers
from atelier.jobs.signatures import signed_headers

#: Seconds in which a receiver must answer.
ATTEMPT_S = 10.0
#: The part of this time in which an address must answer before the host's next one is tried. The TLS handshake has as
#: much, so that it ends before the attempt is cancelled: httpcore closes the connection only then.
_CONNECT_PART = 0.4
_GONE = 410


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed."""

    #: In words for the client, without addresses and without the body of the answer.
    reason: str
    #: Whether the receiver wants no further attempts.
    is_final: bool = False


class Sender:
    """Sends signed messages to receivers. Redirects are not followed, and proxies of the environment are not used."""

    def __init__(
        self,
        key: bytes,
        receivers: Receivers,
        *,
        network: httpcore2.AsyncNetworkBackend | None = None,
        limit_s: float = ATTEMPT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`key` signs; `network` connects to addresses that have been checked, by default over TCP."""
        self._key = key
        self._limit_s = limit_s
        self._clock = clock
        connections = CheckedConnections(receivers, network or httpcore2.AnyIOBackend())
        # No connection is kept, because no answer is read to its end.
        self._pool = httpcore2.AsyncConnectionPool(
            httpcore2.default_ssl_context(), max_connections=None, network_backend=connections
        )

    async def send(self, url: str, message_id: str, body: bytes) -> Failure | None:
        """Post a JSON body. Returns None if the receiver has accepted it."""
        signed = signed_headers(self._key, message_id, self._clock(), body)
        headers = [("content-type", "application/json"), ("user-agent", "atelier"), *signed.items()]
        limits = {"timeout": {"connect": self._limit_s * _CONNECT_PART}}
        try:
            async with (
                asyncio.timeout(self._limit_s),
                self._pool.stream("POST", url, headers=headers, content=body, extensions=limits) as answer,
            ):
                return _failure_of(answer.status)
        except (TimeoutError, httpcore2.TimeoutException):
            return Failure(f"no answer within {self._limit_s:g} s")
        except (HostNotFound, HostNotPublic) as error:
            return Failure(str(type(error).__doc__))
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            return Failure(_reason(error))


def _failure_of(status: int) -> Failure | None:
    if 200 <= status <= 299:
        return None
    return Failure(f"answered with status {status}", is_final=status == _GONE)


def _reason(error: Exception) -> str:
    # httpcore raises its own errors "from None".
    if isinstance(error.__context__, ssl.SSLCertVerificationError):
        return "the certificate is not valid"
    if isinstance(error.__context__, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, httpcore2.ConnectError):
        return "cannot connect"
    return "the connection was lost" if isinstance(error, httpcore2.NetworkError) else "the answer is not HTTP"
