"""Requests that share UNet calls, and the key that tells who may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.engine.packing import Packed, pack
from atelier.engine.request import ActiveRequest


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Rows share a UNet call if and only if their keys agree."""

    model: str
    height: int
    width: int
    #: Prompt chunks of an `exact` request, whose bits depend on them; None for `fast` ones of any length.
    exact_chunks: int | None

    @classmethod
    def of(cls, request: DenoiseRequest) -> BatchKey:
        is_exact = request.reproducibility == "exact"
        return cls(request.model, request.height, request.width, request.num_chunks if is_exact else None)


class Batch:
    """The requests of one key, and their rows for as long as nobody joins or leaves."""

    def __init__(self, key: BatchKey, *, exact_width: int) -> None:
        self.key = key
        self.requests: list[ActiveRequest] = []
        self._width = None if key.exact_chunks is None else exact_width
        self._packed: Packed | None = None

    @property
    def num_rows(self) -> int:
        return sum(request.num_rows for request in self.requests)

    @property
    def num_padding_rows(self) -> int:
        """Copies that fill the last call of `exact` requests to its width."""
        return -self.num_rows % self._width if self._width else 0

    @property
    def packed(self) -> Packed:
        if self._packed is None:
            self._packed = self.pack(self.requests)
        return self._packed

    def pack(self, requests: Sequence[ActiveRequest]) -> Packed:
        """The rows of some of the requests, as this batch calls the UNet."""
        return pack(requests, width=self._width)

    def join(self, request: ActiveRequest) -> None:
        self.requests.append(request)
        self._packed = None

    def leave(self, request_id: RequestId) -> bool:
        """Whether the request was here."""
        staying = [r for r in self.requests if r.arrival.request.request_id != request_id]
        if len(staying) == len(self.requests):
            return False
        self.requests, self._packed = staying, None
        return True
