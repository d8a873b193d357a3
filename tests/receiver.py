"""A receiver of webhooks on this machine, which keeps what it gets and answers as a test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

#: The answer of a receiver that accepts a webhook.
ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Received:
    """A request that has arrived."""

    path: str
    #: By their names in small letters.
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server on a free port. It gives its answers in turn, and the last one again and again."""

    answers: list[bytes] = field(default_factory=lambda: [ACCEPTED])
    #: Sent after an answer until the connection is closed; nothing if empty.
    endless: bytes = b""
    #: Sent before a request has come.
    greeting: bytes = b""
    received: list[Received] = field(default_factory=list)
    port: int = 0
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def close(self) -> None:
        """Wait until all connections are closed."""
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(self.greeting)
            self.received.append(await _read(reader))
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()
            while self.endless:
                writer.write(self.endless)
                await writer.drain()
            # A client that waits for an answer leaves first.
            while not self.answers[0] and await reader.read(1):
                pass
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Received:
    request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Received(request.split(" ")[1], headers, body)


@asynccontextmanager
async def receiving(
    receiver: Receiver | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver for the time of the context."""
    receiver = receiver or Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.close()
        await server.wait_closed()
