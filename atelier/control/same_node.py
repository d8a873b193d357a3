"""The transport between processes of one node, over a socket and shared memory (`atelier.control.channel`).

A client sends the next request only after receiving the last response, or else over a new connection, so no array is
overwritten while it is read. Only processes of the same user can reach the socket's folder, so messages may be
pickled.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from atelier.control.batching import ResidualBatcher
from atelier.control.calls import Contexts, ControlCall, UnknownContexts
from atelier.control.channel import Channel
from atelier.control.messages import ResidualsRequest, ResidualsResponse, residuals_of, response_of
from atelier.control.residuals import Residuals
from atelier.control.transports import TransportFailed, Wait
from atelier.models.loading import Placement

logger = logging.getLogger(__name__)

_ACCEPT_RETRY_S = 1.0


class SameNode:
    """The transport to a ControlNet replica on this node, over one connection that is renewed after a failure."""

    is_concurrent = False
    weights: Mapping[str, str] = {}

    def __init__(self, find: Callable[[], Path], placement: Placement, *, deadline_s: float) -> None:
        """`find` returns the path of the replica's socket; it raises TransportFailed if this node has no replica."""
        self._find = find
        self._placement = placement
        self._deadline_s = deadline_s
        self._channel: Channel[list[ResidualsResponse]] | None = None
        #: Whether a response is outstanding. If the caller did not wait for it, the next call must not receive it.
        self._is_response_due = False

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        """Send the calls; contexts are sent only if the replica reports them missing. Raises TransportFailed."""
        end_s = time.monotonic() + self._deadline_s
        if self._is_response_due:
            self.close()
        with self._connected(end_s) as channel:
            channel.send([ResidualsRequest(call) for call in calls])
            self._is_response_due = True

        def wait() -> list[Residuals]:
            with self._connected(end_s) as channel:
                responses = channel.receive()
                if any(isinstance(response, UnknownContexts) for response in responses):
                    channel.send(_with_unknown(calls, responses, contexts))
                    responses = channel.receive()
                self._is_response_due = False
                return [residuals_of(response) for response in responses]

        return wait

    def close(self) -> None:
        """Close the connection; the next call connects again."""
        self._is_response_due = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @contextmanager
    def _connected(self, end_s: float) -> Iterator[Channel[list[ResidualsResponse]]]:
        """Connect if necessary and yield the channel, with a deadline; an error closes it. Raises TransportFailed."""
        try:
            if self._channel is None:
                self._channel = Channel(self._connect(), self._placement)
            self._channel.wait_until(end_s)
            yield self._channel
        except OSError as error:
            self.close()
            raise TransportFailed("a ControlNet replica on this node") from error

    def _connect(self) -> socket.socket:
        address = str(self._find())
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connected.settimeout(self._deadline_s)
        try:
            connected.connect(address)
        except OSError:
            connected.close()
            raise
        return connected


def _with_unknown(
    calls: Sequence[ControlCall], responses: Sequence[ResidualsResponse], contexts: Contexts
) -> list[ResidualsRequest]:
    """Return requests that repeat the calls, each with the contexts that the replica reported missing."""
    return [
        ResidualsRequest(call, tuple(contexts[context_id] for context_id in response.context_ids))
        if isinstance(response, UnknownContexts)
        else ResidualsRequest(call)
        for call, response in zip(calls, responses, strict=True)
    ]


class SameNodeServer:
    """The server of `SameNode` in a ControlNet replica, with one thread for every connected Denoiser."""

    def __init__(self, batcher: ResidualBatcher, placement: Placement) -> None:
        self._batcher = batcher
        self._placement = placement
        self.socket_file = Path(tempfile.mkdtemp(prefix="atelier-control-")) / "socket"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.socket_file))
        self._listener.listen()
        threading.Thread(target=self._accept, name="same-node", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                # Accepting can fail, for example without free file descriptors; a later attempt may succeed.
                logger.exception("cannot accept a Denoiser")
                time.sleep(_ACCEPT_RETRY_S)
                continue
            threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        channel: Channel[list[ResidualsRequest]] = Channel(connected, self._placement)
        try:
            while True:
                requests = channel.receive()
                answers = [self._batcher.submit(request.call, request.contexts) for request in requests]
                channel.send([response_of(answer) for answer in answers])
        except ConnectionError:
            logger.info("a Denoiser has disconnected")
        finally:
            channel.close()
