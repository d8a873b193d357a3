"""LoRAs per row: every row of a call has low-rank changes of its own in the layers of a model.

The rows of a call may have different LoRAs, several at once, or none. A layer computes its output as it does without
LoRAs, and then adds `up @ down @ x` with the factors of each row, in batched products. A row's bits therefore depend
on no other row's factors, and a row without LoRAs, whose factors are zero, keeps its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from atelier.families.sdxl.adapters.adapter import Layers, LowRank


@dataclass(frozen=True, slots=True)
class RowFactors:
    """The factors of one layer for every row of a call, padded with zeros to a common rank."""

    #: [rows, rank, in] for a linear layer, [rows, rank, in, kernel, kernel] for a convolution.
    down: torch.Tensor
    #: [rows, rank, out]
    up: torch.Tensor


#: Factors by the names of a model's submodules.
RowAdapters = Mapping[str, RowFactors]


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


def stacked(rows: Sequence[Layers]) -> RowAdapters:
    """Return the factors of rows, each of which has its own changes; layers that no row changes are left out."""
    example = {name: change for layers in rows for name, change in layers.items()}
    factors = {}
    for name, change in example.items():
        rank = max(layers[name].rank for layers in rows if name in layers)
        down = change.down.new_zeros((len(rows), rank, *change.down.shape[1:]))
        up = change.up.new_zeros((len(rows), rank, len(change.up)))
        for row, layers in enumerate(rows):
            if name in layers:
                down[row, : layers[name].rank] = layers[name].down
                up[row, : layers[name].rank] = layers[name].up.T
        factors[name] = RowFactors(down, up)
    return factors


@contextmanager
def applied(model: torch.nn.Module, adapters: RowAdapters) -> Iterator[None]:
    """Context manager in which the model's layers add the changes of the rows of a call.

    The first axis of every layer's input must be those rows.
    """
    layers = {name: model.get_submodule(name) for name in adapters}
    for name, layer in layers.items():
        layer.forward = _changed(layer, adapters[name])
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward


def _changed(layer: torch.nn.Module, factors: RowFactors) -> Callable[[torch.Tensor], torch.Tensor]:
    if isinstance(layer, torch.nn.Conv2d):
        return partial(_convolution, layer, layer.forward, factors)
    return partial(_linear, layer.forward, factors)


def _linear(forward: Callable[[torch.Tensor], torch.Tensor], factors: RowFactors, x: torch.Tensor) -> torch.Tensor:
    """Apply a linear layer to `x`, [rows, in] or [rows, tokens, in]."""
    tokens = x[:, None] if x.ndim == 2 else x
    y = forward(tokens)
    changed = torch.baddbmm(y, torch.bmm(tokens, factors.down.transpose(1, 2)), factors.up)
    return changed[:, 0] if x.ndim == 2 else changed


def _convolution(
    layer: torch.nn.Conv2d,
    forward: Callable[[torch.Tensor], torch.Tensor],
    factors: RowFactors,
    x: torch.Tensor,
) -> torch.Tensor:
    """Apply a convolution to `x`, [rows, in, h, w]: each row is a group of a convolution with all rows' `down`."""
    y = forward(x)
    num_rows, rank = factors.down.shape[:2]
    grouped = torch.nn.functional.conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        factors.down.flatten(0, 1),
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=num_rows,
    )
    change = torch.bmm(factors.up.transpose(1, 2), grouped.view(num_rows, rank, -1))
    return y + change.view(y.shape)
