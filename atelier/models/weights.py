"""The tensors of a module, which can be taken out of it and put back while programs of the module stay valid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Weights:
    """The parameters and buffers of one module.

    They are exchanged in place: traced programs and attention processors that refer to a parameter see the tensor
    that it holds now.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._tensors = tensors_of(module)
        self.num_bytes = sum(tensor.nbytes for tensor in self._tensors)

    def take(self) -> list[torch.Tensor]:
        """Take the tensors out. The module keeps their shapes; floats become NaN, so that no call goes unnoticed."""
        taken = [tensor.data for tensor in self._tensors]
        # One number for all tensors, because a GPU needs a kernel for each.
        numbers = {key: _no_number(*key) for key in {(tensor.dtype, tensor.device) for tensor in taken}}
        for tensor in self._tensors:
            tensor.data = numbers[tensor.dtype, tensor.device].expand(tensor.shape)
        return taken

    def put(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put tensors in, in the order of `take`. Raises ValueError if their shapes are not the module's."""
        shapes, own = [tensor.shape for tensor in tensors], [tensor.shape for tensor in self._tensors]
        if shapes != own:
            raise ValueError("the tensors do not have the shapes of the module's")
        for tensor, new in zip(self._tensors, tensors, strict=True):
            tensor.data = new


def tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a module, each once, in the order of its definition."""
    return [*module.parameters(), *module.buffers()]


@torch.inference_mode(False)
def take_all(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace a module's parameters, which may be on no device, by those of a module whose tensors were taken."""
    number = _no_number(dtype, torch.device("cpu"))
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, torch.nn.Parameter(number.expand(parameter.shape)))


def _no_number(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.full((), math.nan if dtype.is_floating_point else 0, dtype=dtype, device=device)
