"""The codec of messages between processes: tensors become numpy arrays, whose memory is kept out of the pickle.

Transports carry the memory of numpy arrays without a copy, but not that of tensors. A decoded tensor has the memory
layout of the original, because the layout decides which kernel runs and with it the last bits of a result. Messages
are pickled, so both sides must be trusted.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from atelier.models.loading import Placement

M = TypeVar("M")

_Layout = Literal["contiguous", "channels_last"]
_Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Encoded(Generic[M]):
    """A message of type `M` on its way between processes."""

    #: The pickled message without the memory of its arrays.
    structure: bytes
    #: The memory of the arrays, contiguous.
    buffers: tuple[pickle.PickleBuffer, ...]


def encode(message: M) -> Encoded[M]:
    """Encode a message of frozen dataclasses; tensors are copied only from a GPU or if they are not contiguous."""
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(message)
    return Encoded(file.getvalue(), tuple(buffers))


def decode(encoded: Encoded[M], placement: Placement) -> M:
    """Decode a message, with tensors on the placement's device; on the CPU they share writeable buffers' memory."""
    message: M = _Unpickler(encoded, placement.device).load()
    return message


def _reduce(tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[_Array, bool, _Layout]]:
    """Reduce a tensor to a numpy array for pickling; bfloat16, which numpy does not have, becomes int16."""
    layout: _Layout = "contiguous"
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor, layout = tensor.permute(0, 2, 3, 1), "channels_last"
    tensor = tensor.contiguous().cpu()
    is_bfloat16 = tensor.dtype == torch.bfloat16
    return _tensor_of, ((tensor.view(torch.int16) if is_bfloat16 else tensor).numpy(), is_bfloat16, layout)


def _tensor_of(array: _Array, is_bfloat16: bool, layout: _Layout, *, device: str = "cpu") -> torch.Tensor:
    tensor = (torch.from_numpy(array) if array.flags.writeable else torch.tensor(array)).to(device)
    if is_bfloat16:
        tensor = tensor.view(torch.bfloat16)
    return tensor.permute(0, 3, 1, 2) if layout == "channels_last" else tensor


class _Pickler(pickle.Pickler):
    dispatch_table = {**copyreg.dispatch_table, torch.Tensor: _reduce}  # noqa: RUF012 pickle's own attribute


class _Unpickler(pickle.Unpickler):
    """An unpickler that puts the decoded tensors on `device`."""

    def __init__(self, encoded: Encoded[Any], device: str) -> None:
        super().__init__(io.BytesIO(encoded.structure), buffers=encoded.buffers)
        self._device = device

    def find_class(self, module: str, name: str) -> object:
        found: object = super().find_class(module, name)
        return partial(_tensor_of, device=self._device) if found is _tensor_of else found
