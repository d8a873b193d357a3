"""A batch of running requests that share UNet calls."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, inf

import torch

from atelier.core.conditioning import TOKENS_PER_CHUNK, Role
from atelier.core.denoising import RequestId
from atelier.engine.packing import Packed, Row, pack
from atelier.engine.request import BatchKey, RunningRequest
from atelier.engine.splits import Splits, even_parts
from atelier.families.family import Conditions, Family, PromptConditions
from atelier.models.transfer import uploaded


class Batch:
    """The running requests of one `BatchKey`, and the slots that hold the conditions of their rows.

    Rows are packed when a request has joined or left, before the next step. Until then a slot may be empty.
    """

    def __init__(
        self, key: BatchKey, family: Family, *, exact_width: int, splits: Splits, max_call_rows: float = inf
    ) -> None:
        """`exact_width` is the number of rows in every call of `exact` requests.

        Those of others have `splits`, and `max_call_rows` at most.
        """
        self.key = key
        self.requests: list[RunningRequest] = []
        self._width = None if key.exact_chunks is None else exact_width
        self._splits = splits
        self._max_call_rows = max_call_rows
        self._conditions = family.new_slots()
        #: The row in each slot; None if its request has left.
        self._slots: list[Row | None] = []
        self._packed: Packed | None = None

    @property
    def num_rows(self) -> int:
        return sum(request.num_rows for request in self.requests)

    @property
    def num_padding_rows(self) -> int:
        """Number of copied rows that pad a step's last UNet call to its fixed width; 0 for `fast` requests."""
        return -self.num_rows % self._width if self._width else 0

    @property
    def largest_call(self) -> int:
        """Number of rows in the largest of the step's UNet calls."""
        return max(len(call.image) for call in self.packed.calls)

    def halve_calls(self) -> bool:
        """Let UNet calls have half as many rows from now on; return whether they can, which `exact` ones cannot."""
        num_rows = self.largest_call // 2
        if self._width is not None or num_rows == 0:
            return False
        self._max_call_rows, self._packed = num_rows, None
        return True

    @property
    def packed(self) -> Packed:
        if self._packed is None:
            self._fill_empty_slots()
            rows = [row for row in self._slots if row is not None]
            parts = self._parts(len(rows))
            for slot in range(len(rows), parts[-1].stop):
                self._conditions.copy(len(rows) - 1, slot)
            self._packed = pack(self.requests, rows, self._read, parts, width=self._width)
        return self._packed

    def pack_alone(self, request: RunningRequest) -> Packed:
        """Pack the rows of one request into UNet calls of the batch's width."""
        taken = {slot: row for slot, row in enumerate(self._slots) if row is not None and row.request is request}
        rows, parts = list(taken.values()), self._parts(len(taken))
        slots = [*taken, *[max(taken)] * (parts[-1].stop - len(taken))]
        index = uploaded(torch.tensor(slots), request.latents.device)
        return pack([request], rows, lambda part: self._read(index[part]), parts, width=self._width)

    def join(self, request: RunningRequest, prompts: Mapping[Role, PromptConditions]) -> None:
        """Add a request with its prompts; it takes part from the batch's next step on."""
        empty = [slot for slot, row in enumerate(self._slots) if row is None]
        behind = range(len(self._slots), len(self._slots) + request.num_rows)
        free = iter([*empty, *behind])
        slots = {role: [next(free) for _ in range(request.num_images)] for role in prompts}
        for role, prompt in prompts.items():
            self._conditions.write(slots[role], prompt, self.key.size)
        self.requests.append(request)
        self._packed = None
        self._slots += [None] * request.num_rows
        for role, taken in slots.items():
            for image, slot in enumerate(taken):
                self._slots[slot] = Row(request, role, image)

    def request(self, request_id: RequestId) -> RunningRequest:
        """Return a request of this batch. Raises StopIteration if it has left."""
        return next(request for request in self.requests if request.submitted.request_id == request_id)

    def leave(self, request_id: RequestId) -> None:
        """Remove a request if it is in this batch."""
        staying = [request for request in self.requests if request.submitted.request_id != request_id]
        if len(staying) < len(self.requests):
            self.requests, self._packed = staying, None
            self._slots = [row if row is not None and row.request in staying else None for row in self._slots]

    def _parts(self, num_rows: int) -> list[slice]:
        """Return the positions of the rows of each call; beyond the last row they are padding."""
        if self._width is None:
            num_calls = max(len(self._splits.parts(num_rows)), ceil(num_rows / self._max_call_rows))
            return even_parts(num_rows, num_calls)
        return [slice(start, start + self._width) for start in range(0, num_rows, self._width)]

    def _fill_empty_slots(self) -> None:
        """Move the last rows into the empty slots before them."""
        slots = list(self._slots)
        while None in slots:
            last = slots.pop()
            if last is not None:
                target = slots.index(None)
                self._conditions.copy(len(slots), target)
                slots[target] = last
        self._slots = slots

    def _read(self, slots: slice | torch.Tensor) -> Conditions:
        num_chunks = max(request.num_chunks for request in self.requests)
        forms = [request.adapter_forms for request in self.requests]
        return self._conditions.read(slots, num_tokens=num_chunks * TOKENS_PER_CHUNK, forms=forms)
