"""The transport between processes of one node: a Unix socket for what is small, shared memory for the arrays.

Each side writes its arrays into memory of its own (a memfd: no memory is left behind by a killed process) and sends
the rest of the message, with where the arrays are, as one packet. A message's arrays are valid until its sender's
next one; a client waits for the answer before it asks again, or begins anew, so nothing is overwritten while it is
read. Linux only.
Only processes of the same user can reach the socket's folder, which is why messages may be pickled.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from atelier.control.batching import ResidualBatcher
from atelier.control.calls import Contexts, ControlCall, ControlContext, UnknownContexts
from atelier.control.residuals import Residuals
from atelier.control.transports import TransportFailed, Wait
from atelier.control.wire import Ask, Reply, reply_to, residuals_of
from atelier.models.loading import Placement

logger = logging.getLogger(__name__)

R = TypeVar("R")

_MAX_PACKET_BYTES = 128 * 1024
_ALIGNMENT_BYTES = 64
_ACCEPT_AGAIN_S = 1.0


class _Arena:
    """Memory that one side writes and the other reads; it only grows."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory: mmap.mmap | None = None

    def slices(self, lengths: Sequence[int]) -> list[memoryview]:
        """One piece of each length, the memory made larger where it does not hold them all."""
        starts, end = [], 0
        for length in lengths:
            starts.append(end)
            end += -(-length // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        if end > os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, end)
        if end and (self._memory is None or len(self._memory) < end):
            # The old mapping lives on for as long as arrays point into it.
            self._memory = mmap.mmap(self.fd, 0)
        whole = memoryview(self._memory or b"")
        return [whole[start : start + length] for start, length in zip(starts, lengths, strict=True)]

    def __del__(self) -> None:
        os.close(self.fd)


class Channel(Generic[R]):
    """Messages over a connected socket. Raises OSError when the other side is gone or silent for too long."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._own = _Arena(os.memfd_create("atelier-control"))
        self._theirs: _Arena | None = None
        self._is_introduced = False

    def wait_until(self, end_s: float) -> None:
        """How long sending and receiving may wait, by `time.monotonic`."""
        self._socket.settimeout(max(end_s - time.monotonic(), 1e-3))

    def send(self, message: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        text = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
        raws = [buffer.raw() for buffer in buffers]
        lengths = [raw.nbytes for raw in raws]
        for place, raw in zip(self._own.slices(lengths), raws, strict=True):
            place[:] = raw
        packet = pickle.dumps((lengths, text))
        if self._is_introduced:
            self._socket.send(packet)
        else:
            socket.send_fds(self._socket, [packet], [self._own.fd])
            self._is_introduced = True

    def receive(self) -> R:
        packet, fds, _, _ = socket.recv_fds(self._socket, _MAX_PACKET_BYTES, 1)
        if not packet:
            raise ConnectionError("the other side has closed the connection")
        if fds:
            self._theirs = _Arena(fds[0])
        assert self._theirs is not None, "the first packet brings the memory"
        lengths, text = pickle.loads(packet)
        message: R = pickle.loads(text, buffers=self._theirs.slices(lengths))
        return message

    def close(self) -> None:
        self._socket.close()


class SameNode:
    """Asks a ControlNet replica on this node, over one connection that is made again after a failure."""

    def __init__(self, find: Callable[[], Path], placement: Placement, *, deadline_s: float) -> None:
        """`find` tells the replica's socket; it raises TransportFailed where there is none."""
        self._find = find
        self._placement = placement
        self._deadline_s = deadline_s
        self._channel: Channel[list[Reply]] | None = None
        #: An answer is on its way; if nobody waited for it, it must not be taken for the next one's.
        self._is_asked = False

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        end_s = time.monotonic() + self._deadline_s
        if self._is_asked:
            self.close()
        with self._connected(end_s) as channel:
            channel.send([Ask.of(call) for call in calls])
            self._is_asked = True

        def wait() -> list[Residuals]:
            with self._connected(end_s) as channel:
                replies = channel.receive()
                if any(isinstance(reply, UnknownContexts) for reply in replies):
                    channel.send([Ask.of(*told) for told in zip(calls, _missing(replies, contexts), strict=True)])
                    replies = channel.receive()
                self._is_asked = False
                return [residuals_of(reply, self._placement) for reply in replies]

        return wait

    @contextmanager
    def _connected(self, end_s: float) -> Iterator[Channel[list[Reply]]]:
        """The channel until the deadline; what goes wrong on it closes it."""
        try:
            if self._channel is None:
                self._channel = Channel(self._connect())
            self._channel.wait_until(end_s)
            yield self._channel
        except OSError as error:
            self.close()
            raise TransportFailed("a ControlNet replica on this node") from error

    def close(self) -> None:
        self._is_asked = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None

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


def _missing(replies: Sequence[Reply], contexts: Contexts) -> list[list[ControlContext]]:
    """For each reply the contexts it lacks."""
    return [
        [contexts[context_id] for context_id in reply.context_ids] if isinstance(reply, UnknownContexts) else []
        for reply in replies
    ]


class SameNodeServer:
    """The other side: a thread for every Denoiser that connects."""

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
                # Out of descriptors, say: the next Denoiser may have better luck.
                logger.exception("cannot accept a Denoiser")
                time.sleep(_ACCEPT_AGAIN_S)
                continue
            threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        channel: Channel[list[Ask]] = Channel(connected)
        try:
            while True:
                asks = channel.receive()
                answers = [self._batcher.submit(ask.call_on(self._placement), ask.contexts) for ask in asks]
                channel.send([reply_to(answer) for answer in answers])
        except ConnectionError:
            logger.info("a Denoiser has left")
        finally:
            channel.close()
