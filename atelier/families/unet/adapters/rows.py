"""LoRAs per row: every row of a call has changes of its own in the layers of a model.

The rows of a call may have different LoRAs, several at once, or none. A change has one of two forms. With *factors*
the layer computes its output as without LoRAs, and then adds `up @ down @ x`. With *weights* each row has the layer's
whole weight, which takes less time where the layer is small or the rank is high. Either way rows are multiplied in
batched products, so that a row's bits depend on no other row's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch

from atelier.families.unet.adapters.adapter import Layers, LowRank
from atelier.models.streaming import at_hand

#: A rank below this counts as this, so that the layers of a small model have the same form for all LoRAs.
_MIN_RANK = 32
#: Rows with weights of their own take less time even if there are so many times more numbers than in factors.
_MAX_RATIO = 2

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class RowFactors:
    """The factors of one layer for every row of a call, padded with zeros to a common rank."""

    #: [rows, rank, in] for a linear layer, [rows, rank, in, kernel, kernel] for a convolution.
    down: torch.Tensor
    #: [rows, rank, out]
    up: torch.Tensor


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What the rows of a call change in one layer: weights, factors, or both."""

    #: The linear layer's weight for every row, [rows, in, out].
    weights: torch.Tensor | None = None
    factors: RowFactors | None = None


#: Changes by the names of a model's submodules.
RowAdapters = Mapping[str, RowChanges]


@dataclass(frozen=True, slots=True)
class Merged:
    """A linear layer's weight with a request's LoRAs in it."""

    #: [in, out]
    weight: torch.Tensor
    #: The layer's own weight, [in, out].
    base: torch.Tensor


#: What the present thread's calls add to the layers; calls of one model run side by side.
_APPLIED: ContextVar[RowAdapters] = ContextVar("applied", default=MappingProxyType({}))

#: A request's changes of a model's layers, by the names of its submodules.
RequestLayers = Mapping[str, LowRank | Merged]
#: The forms of a request's changes by layer: the rank of the factors, or None for a weight.
Forms = Mapping[str, int | None]


def combined(adapters: Sequence[tuple[Layers, float]]) -> Layers:
    """Return several LoRAs, each with its weight, as one change per layer: their factors side by side."""
    parts: dict[str, list[tuple[LowRank, float]]] = {}
    for layers, weight in adapters:
        for name, change in layers.items():
            parts.setdefault(name, []).append((change, weight))
    return {
        name: LowRank(
            down=torch.cat([change.down for change, _ in of_layer]),
            up=torch.cat([weight * change.up for change, weight in of_layer], dim=1),
        )
        for name, of_layer in parts.items()
    }


def in_faster_form(model: torch.nn.Module, layers: Layers) -> RequestLayers:
    """Return the changes of a model's layers, each in the form that takes less time."""
    return {name: _merged(model.get_submodule(name), change) or change for name, change in layers.items()}


def _merged(layer: torch.nn.Module, change: LowRank) -> Merged | None:
    if not isinstance(layer, torch.nn.Linear):
        return None
    width, width_out = layer.in_features, layer.out_features
    if width * width_out > _MAX_RATIO * max(change.rank, _MIN_RANK) * (width + width_out):
        return None
    with at_hand(layer):
        base = layer.weight.T
        return Merged(torch.addmm(base, change.down.T, change.up.T), base)


def forms(layers: RequestLayers) -> Forms:
    """Return the form of each change."""
    return {name: None if isinstance(change, Merged) else change.rank for name, change in layers.items()}


def stacked(rows: Sequence[Layers]) -> RowAdapters:
    """Return the factors of rows, each of which has its own changes; layers that no row changes are left out."""
    example = {name: change for layers in rows for name, change in layers.items()}
    changes = {}
    for name, change in example.items():
        rank = max(layers[name].rank for layers in rows if name in layers)
        down = change.down.new_zeros((len(rows), rank, *change.down.shape[1:]))
        up = change.up.new_zeros((len(rows), rank, len(change.up)))
        for row, layers in enumerate(rows):
            if name in layers:
                down[row, : layers[name].rank] = layers[name].down
                up[row, : layers[name].rank] = layers[name].up.T
        changes[name] = RowChanges(factors=RowFactors(down, up))
    return changes


def install_row_changes(model: torch.nn.Module) -> None:
    """Let the linear layers and convolutions of a model add the changes that `applied` names.

    This costs time in every call: 0.8 ms in the zoo's UNet. Installing again changes nothing.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and not isinstance(layer.forward, partial):
            layer.forward = partial(_forward, name, layer, layer.forward)  # type: ignore[method-assign]


@contextmanager
def applied(adapters: RowAdapters) -> Iterator[None]:
    """Context manager in which the layers of an installed model have the changes of the rows of a call.

    It is of the present thread alone. The first axis of every layer's input must be those rows.
    """
    token = _APPLIED.set(adapters)
    try:
        yield
    finally:
        _APPLIED.reset(token)


def _forward(name: str, layer: torch.nn.Linear | torch.nn.Conv2d, forward: Forward, x: torch.Tensor) -> torch.Tensor:
    changes = _APPLIED.get().get(name)
    if changes is None:
        return forward(x)
    if isinstance(layer, torch.nn.Conv2d):
        assert changes.factors is not None, "convolutions have factors only"
        return _convolution(layer, forward, changes.factors, x)
    if changes.weights is not None:
        forward = partial(_own_weights, changes.weights, layer.bias)
    return _linear(forward, changes.factors, x)


def _linear(forward: Forward, factors: RowFactors | None, x: torch.Tensor) -> torch.Tensor:
    """Apply a linear layer to `x`, [rows, in] or [rows, tokens, in]."""
    tokens = x[:, None] if x.ndim == 2 else x
    y = forward(tokens)
    if factors is not None:
        y = torch.baddbmm(y, torch.bmm(tokens, factors.down.transpose(1, 2)), factors.up)
    return y[:, 0] if x.ndim == 2 else y


def _own_weights(weights: torch.Tensor, bias: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor:
    """Multiply each row of `tokens`, [rows, tokens, in], by its own weight."""
    return torch.bmm(tokens, weights) if bias is None else torch.baddbmm(bias, tokens, weights)


def _convolution(layer: torch.nn.Conv2d, forward: Forward, factors: RowFactors, x: torch.Tensor) -> torch.Tensor:
    """Apply a convolution to `x`, [rows, in, h, w]: each row is a group of a convolution with all rows' `down`."""
    y = forward(x)
    grouped = _grouped(x, factors.down, list(layer.stride), list(layer.padding), list(layer.dilation))
    change = torch.bmm(factors.up.transpose(1, 2), grouped)
    return y + change.view(y.shape)


# A trace would keep the number of groups of its example.
@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _grouped(
    x: torch.Tensor, down: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> torch.Tensor:
    """Convolve each row of `x`, [rows, in, h, w], by its own kernels; returns [rows, rank, h · w] of the output."""
    rows, rank = down.shape[:2]
    grouped = torch.conv2d(
        x.reshape(1, -1, x.shape[2], x.shape[3]), down.flatten(0, 1), None, stride, padding, dilation, rows
    )
    return grouped.view(rows, rank, -1)
