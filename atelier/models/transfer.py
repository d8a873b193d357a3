"""Copies of tensors to a device, on a CUDA stream of their own: kernels run on meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


def uploaded(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return values of the host on a device, for the kernels that this thread launches next.

    Nothing waits, while a copy from pageable memory would wait for all kernels that were launched before it.
    """
    if torch.device(device).type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Tensors on a device, or on their way."""

    tensors: list[torch.Tensor]
    #: The end of the copy; None if the tensors are there.
    event: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Let the kernels that are launched next in this thread wait until the tensors are there."""
        if self.event is not None:
            torch.cuda.current_stream().wait_event(self.event)


class Transfer:
    """Copies tensors to one device. Thread-safe."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stream = None if device == "cpu" else torch.cuda.Stream(device)

    def copy(self, tensors: Sequence[torch.Tensor]) -> Arrival:
        """Begin to copy tensors in host memory; on the CPU they are there already."""
        if self._stream is None:
            return Arrival([*tensors])
        with torch.cuda.stream(self._stream):
            arrived = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
            return Arrival(arrived, self._stream.record_event())

    def mark(self) -> torch.cuda.Event | None:
        """Return the end of all kernels that this thread has launched; None on the CPU, where calls end themselves.

        Memory of the copying stream is given out again as soon as its tensors are freed. They may be freed only when
        the kernels that read them have ended.
        """
        return None if self._stream is None else torch.cuda.current_stream().record_event()

    def release(self) -> None:
        """Give memory that is free in this process back to the device, where other processes can use it."""
        if self._stream is not None:
            torch.cuda.empty_cache()
