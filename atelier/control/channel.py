"""Messages between two processes of a node: a Unix socket for their structure, shared memory for their buffers.

Each side writes its arrays into shared memory of its own and sends the rest of the message, with the lengths of the
arrays, as one packet. The memory is a memfd, so a killed process leaves none behind. Linux only. Messages are
pickled, so both sides must be trusted.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from atelier.control.codec import Encoded, decode, encode
from atelier.models.loading import Placement

R = TypeVar("R")

_MAX_PACKET_BYTES = 128 * 1024
_ALIGNMENT_BYTES = 64


class _Arena:
    """Shared memory that one side writes and the other reads; it only grows."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory: mmap.mmap | None = None

    def slices(self, lengths: Sequence[int]) -> list[memoryview]:
        """Return one aligned piece of memory for each length, in bytes; the memory grows if they do not fit."""
        starts, end = [], 0
        for length in lengths:
            starts.append(end)
            end += -(-length // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        if end > os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, end)
        if end and (self._memory is None or len(self._memory) < end):
            # The old mapping stays alive for as long as arrays point into it.
            self._memory = mmap.mmap(self.fd, 0)
        whole = memoryview(self._memory or b"")
        return [whole[start : start + length] for start, length in zip(starts, lengths, strict=True)]

    def __del__(self) -> None:
        os.close(self.fd)


class Channel(Generic[R]):
    """A connected socket and both sides' memory; receives messages of type `R`.

    Methods raise OSError when the other side has closed the connection or does not respond in time.
    """

    def __init__(self, connected: socket.socket, placement: Placement) -> None:
        """Tensors of received messages are put on the placement's device."""
        self._socket = connected
        self._placement = placement
        self._own = _Arena(os.memfd_create("atelier-control"))
        self._theirs: _Arena | None = None
        self._is_memory_sent = False

    def wait_until(self, end_s: float) -> None:
        """Let sending and receiving wait until `end_s`, on the clock of `time.monotonic`."""
        self._socket.settimeout(max(end_s - time.monotonic(), 1e-3))

    def send(self, message: object) -> None:
        """Write the message's buffers into shared memory and send the rest."""
        encoded = encode(message)
        raws = [buffer.raw() for buffer in encoded.buffers]
        lengths = [raw.nbytes for raw in raws]
        for place, raw in zip(self._own.slices(lengths), raws, strict=True):
            place[:] = raw
        packet = pickle.dumps((lengths, encoded.structure))
        if self._is_memory_sent:
            self._socket.send(packet)
        else:
            socket.send_fds(self._socket, [packet], [self._own.fd])
            self._is_memory_sent = True

    def receive(self) -> R:
        """Return the next message; its tensors and arrays are valid until the other side sends another message."""
        packet, fds, _, _ = socket.recv_fds(self._socket, _MAX_PACKET_BYTES, 1)
        if not packet:
            raise ConnectionError("the other side has closed the connection")
        if fds:
            self._theirs = _Arena(fds[0])
        assert self._theirs is not None, "the first packet carries the memory's descriptor"
        lengths, structure = pickle.loads(packet)
        buffers = tuple(map(pickle.PickleBuffer, self._theirs.slices(lengths)))
        encoded: Encoded[R] = Encoded(structure, buffers)
        return decode(encoded, self._placement)

    def close(self) -> None:
        """Close the connection; the other side's next call raises."""
        self._socket.close()
