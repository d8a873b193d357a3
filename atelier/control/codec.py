"""The codec of messages between processes: one numpy array for every tensor and array of a message.

Transports carry the memory of arrays without a copy, but not that of tensors. A decoded tensor has the memory layout
of the original, because the layout decides which kernel runs and with it the last bits of a result. Messages are
pickled, so both sides must be trusted.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from atelier.models.loading import Placement

M = TypeVar("M")

#: Contiguous memory; bfloat16, which numpy does not have, as int16.
Array = npt.NDArray[np.generic]

_Layout = Literal["contiguous", "channels_last"]
_ArrayId = tuple[int, str | None, _Layout]


@dataclass(frozen=True, slots=True)
class Encoded(Generic[M]):
    """A message of type `M` on its way between processes."""

    #: The pickled message without its arrays.
    structure: bytes
    arrays: tuple[Array, ...]


def encode(message: M) -> Encoded[M]:
    """Encode a message of frozen dataclasses; tensors are copied only from a GPU or if they are not contiguous."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(message)
    return Encoded(file.getvalue(), tuple(pickler.arrays))


def decode(encoded: Encoded[M], placement: Placement) -> M:
    """Decode a message, its tensors on the placement's device; on the CPU they share writeable arrays' memory."""
    message: M = _Unpickler(encoded, placement.device).load()
    return message


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[Array] = []

    def persistent_id(self, value: object) -> _ArrayId | None:
        if isinstance(value, torch.Tensor):
            array, layout = _array_of(value)
            array_id: _ArrayId = len(self.arrays), str(value.dtype).removeprefix("torch."), layout
        elif isinstance(value, np.ndarray):
            array, array_id = np.asarray(value, order="C"), (len(self.arrays), None, "contiguous")
        else:
            return None
        self.arrays.append(array)
        return array_id


class _Unpickler(pickle.Unpickler):
    def __init__(self, encoded: Encoded[Any], device: str) -> None:
        super().__init__(io.BytesIO(encoded.structure))
        self._arrays = encoded.arrays
        self._device = device

    def persistent_load(self, array_id: _ArrayId) -> Array | torch.Tensor:
        index, dtype, layout = array_id
        array = self._arrays[index]
        return array if dtype is None else _tensor_of(array, dtype, layout, self._device)


def _array_of(tensor: torch.Tensor) -> tuple[Array, _Layout]:
    layout: _Layout = "contiguous"
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor, layout = tensor.permute(0, 2, 3, 1), "channels_last"
    tensor = tensor.detach().contiguous().cpu()
    array: Array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array, layout


def _tensor_of(array: Array, dtype: str, layout: _Layout, device: str) -> torch.Tensor:
    tensor = (torch.from_numpy(array) if array.flags.writeable else torch.tensor(array)).to(device)
    if dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    return tensor.permute(0, 3, 1, 2) if layout == "channels_last" else tensor
