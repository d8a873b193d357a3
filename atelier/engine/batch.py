"""A batch of running requests that share UNet calls."""

from __future__ import annotations

from collections.abc import Sequence

from atelier.core.denoising import RequestId
from atelier.engine.packing import Packed, pack
from atelier.engine.request import BatchKey, RunningRequest
from atelier.families.family import Family


class Batch:
    """The running requests of one `BatchKey`. Their packed rows are cached until a request joins or leaves."""

    def __init__(self, key: BatchKey, family: Family, *, exact_width: int) -> None:
        self.key = key
        self.requests: list[RunningRequest] = []
        self._family = family
        self._width = None if key.exact_chunks is None else exact_width
        self._packed: Packed | None = None

    @property
    def num_rows(self) -> int:
        return sum(request.num_rows for request in self.requests)

    @property
    def num_padding_rows(self) -> int:
        """Number of copied rows that pad a step's last UNet call to its fixed width; 0 for `fast` requests."""
        return -self.num_rows % self._width if self._width else 0

    @property
    def packed(self) -> Packed:
        if self._packed is None:
            self._packed = self.pack(self.requests)
        return self._packed

    def pack(self, requests: Sequence[RunningRequest]) -> Packed:
        """Pack the rows of `requests` (all of the batch or some) into UNet calls of the batch's width."""
        return pack(requests, self._family, width=self._width)

    def join(self, request: RunningRequest) -> None:
        """Add a request; it takes part from the batch's next step on."""
        self.requests.append(request)
        self._packed = None

    def leave(self, request_id: RequestId) -> bool:
        """Remove a request; returns whether it was in this batch."""
        staying = [request for request in self.requests if request.submitted.request_id != request_id]
        if len(staying) == len(self.requests):
            return False
        self.requests, self._packed = staying, None
        return True
