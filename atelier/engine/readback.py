"""Small results on their way from the device, so that the step loop queues its next work meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import torch


class Readback:
    """Values that are copied to the host behind the work that computes them."""

    def __init__(self, values: torch.Tensor) -> None:
        """Begin to copy `values`; on CUDA nothing waits until they are read."""
        self._arrived: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    @property
    def is_here(self) -> bool:
        """Whether the values can be read without waiting."""
        return self._arrived is None or self._arrived.query()

    def read(self) -> list[bool]:
        """Return the values, waiting for them if they are not here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[bool] = self._values.tolist()
        return values


@dataclass(frozen=True, slots=True)
class Finite:
    """Whether the latents of a request hold neither infinities nor NaN."""

    #: The same of every image of the batch.
    _of_images: Readback
    #: The images of the request.
    _images: slice

    @property
    def is_here(self) -> bool:
        """Whether `read` does not wait."""
        return self._of_images.is_here

    def read(self) -> bool:
        """Return it, waiting for the device if need be."""
        return all(self._of_images.read()[self._images])
