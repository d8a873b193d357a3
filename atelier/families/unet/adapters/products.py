"""Dense changes of a layer's weight as LyCORIS makes them: LoHa and LoKr.

The formulas are those of LyCORIS (github.com/KohakuBlueleaf/LyCORIS, lycoris/modules/loha.py, lycoris/modules/lokr.py
and `rebuild_tucker` in lycoris/functional/general.py). The shape that factors make is checked before they are
multiplied, because a small file can spell a huge product. All errors are ValueErrors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Factors = Mapping[str, torch.Tensor]

#: Returns alpha / rank for a rank.
Scale = Callable[[int], float]


def factor(factors: Factors, name: str) -> torch.Tensor:
    """Return a factor. Raises ValueError if it is missing or has less than two dimensions."""
    if name not in factors:
        raise ValueError(f"it has no {name!r}, only {', '.join(sorted(factors)) or 'alpha'}.")
    if factors[name].ndim < 2:
        raise ValueError(f"its {name!r} is {list(factors[name].shape)}; it must have two dimensions or more.")
    return factors[name]


def loha(factors: Factors, shape: Sequence[int], scale: Scale) -> torch.Tensor:
    """Return ΔW = W1 ∘ W2, where each is of low rank (Hyeon-Woo et al. 2021, §2)."""
    left, right = (_weight(factors, f"hada_w{number}", f"hada_t{number}", shape[2:]) for number in (1, 2))
    for each in (left, right):
        _check([each.outputs, each.inputs, *shape[2:]], shape)
    return left.product() * right.product() * scale(left.rank)


def lokr(factors: Factors, shape: Sequence[int], scale: Scale) -> torch.Tensor:
    """Return ΔW = W1 ⊗ W2, where each is full or of low rank (Yeh et al. 2023, §3.2).

    W1 is a matrix; W2 has the layer's kernel. If both are full, alpha does not count.
    """
    kernel = shape[2:]
    left, right = _weight(factors, "lokr_w1", "lokr_t1", []), _weight(factors, "lokr_w2", "lokr_t2", kernel)
    _check([left.outputs * right.outputs, left.inputs * right.inputs, *kernel], shape)
    delta = torch.kron(
        left.product().reshape(left.outputs, left.inputs, *[1] * len(kernel)), right.product().contiguous()
    )
    rank = left.rank or right.rank
    return delta * scale(rank) if rank else delta


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """A weight [outputs, inputs, …kernel] that is not multiplied yet."""

    outputs: int
    inputs: int
    #: 0 if the file holds the weight as it is.
    rank: int
    product: Callable[[], torch.Tensor]


def _weight(factors: Factors, name: str, core_name: str, kernel: Sequence[int]) -> _Weight:
    """Return the weight that a file holds as it is or as factors `_a` and `_b`, and a Tucker core for the kernel."""
    if name in factors:
        full = factor(factors, name)
        if others := sorted({f"{name}_a", f"{name}_b", core_name} & factors.keys()):
            raise ValueError(f"it has {', '.join(others)} besides {name!r}.")
        if list(full.shape[2:]) != list(kernel):
            raise ValueError(f"its {name!r} is {list(full.shape)}; its kernel must be {list(kernel)}.")
        return _Weight(outputs=full.shape[0], inputs=full.shape[1], rank=0, product=lambda: full)
    left, right = factor(factors, f"{name}_a"), factor(factors, f"{name}_b").flatten(1)
    if core_name in factors:
        return _tucker(factors[core_name], left, right, kernel)
    return _low_rank(left, right, kernel)


def _low_rank(left: torch.Tensor, right: torch.Tensor, kernel: Sequence[int]) -> _Weight:
    """`left` is [outputs, rank], `right` [rank, inputs · kernel]."""
    inputs, rest = divmod(right.shape[1], torch.Size(kernel).numel())
    if left.ndim != 2 or left.shape[1] != len(right) or rest or not len(right):
        raise ValueError(f"its factors are {list(left.shape)} and {list(right.shape)}, which do not go together.")
    return _Weight(
        outputs=len(left),
        inputs=inputs,
        rank=len(right),
        product=lambda: (left @ right).reshape(len(left), inputs, *kernel),
    )


def _tucker(core: torch.Tensor, left: torch.Tensor, right: torch.Tensor, kernel: Sequence[int]) -> _Weight:
    """`core` is [rank, rank, …kernel], `left` [rank, outputs], `right` [rank, inputs]."""
    rank = len(right)
    if left.ndim != 2 or len(left) != rank or not rank or list(core.shape) != [rank, rank, *kernel]:
        sizes = ", ".join(str(list(each.shape)) for each in (core, left, right))
        raise ValueError(f"its factors are {sizes}, which do not go together with the kernel {list(kernel)}.")
    return _Weight(
        outputs=left.shape[1],
        inputs=right.shape[1],
        rank=rank,
        product=lambda: torch.einsum("pq...,po,qi->oi...", core, left, right),
    )


def _check(made: Sequence[int], shape: Sequence[int]) -> None:
    if list(made) != list(shape):
        raise ValueError(
            f"its factors make {list(made)}, the layer has {list(shape)}: it was trained for another model."
        )
