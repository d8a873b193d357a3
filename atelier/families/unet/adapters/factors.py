"""A layer's change from the factors that a file holds: LoRA and LoCon here, LoHa and LoKr in `products`.

All errors are ValueErrors whose messages say what the factors are and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atelier.families.unet.adapters.adapter import LowRank
from atelier.families.unet.adapters.products import Factors, Scale, factor, loha, lokr

MAX_RANK = 256

_BUILDERS = {"hada_": loha, "lokr_": lokr}


def change(factors: Factors, shape: Sequence[int], scale: Scale) -> LowRank:
    """Return the change of a layer whose weight has this shape, from the factors in the layer's keys.

    Raises ValueError if a factor is missing, does not fit the others or has too high a rank.
    """
    for start, build in _BUILDERS.items():
        if any(name.startswith(start) for name in factors):
            if others := [name for name in factors if not name.startswith(start)]:
                raise ValueError(f"it has {', '.join(sorted(others))} besides the factors {start}….")
            return _identity_product(build(factors, shape, scale))
    return _low_rank(factors, scale)


def _low_rank(factors: Factors, scale: Scale) -> LowRank:
    """Return ΔW = up · down, or up · mid · down for a convolution in CP decomposition.

    The order of `mid`'s dimensions is that of LyCORIS, lycoris/modules/locon.py.
    """
    down, up = factor(factors, "down"), factor(factors, "up")
    rank = len(down)
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(f"its rank is {rank}; allowed are 1 … {MAX_RANK}.")
    if up.shape[1] != rank or up.shape[2:].numel() != 1:
        raise ValueError(
            f"its 'down' is {list(down.shape)} and its 'up' {list(up.shape)}, which must be [out, {rank}]."
        )
    if "mid" in factors:
        mid = factor(factors, "mid")
        if mid.shape[:2] != (rank, rank) or down.shape[2:].numel() != 1:
            raise ValueError(f"its 'mid' is {list(mid.shape)} and its 'down' {list(down.shape)}, of rank {rank}.")
        down = torch.einsum("pq...,qi->pi...", mid, down.flatten(1))
    return LowRank(down=down, up=up.flatten(1) * scale(rank))


def _identity_product(delta: torch.Tensor) -> LowRank:
    """Return a dense change as a product of itself and an identity, of the smaller rank that this can have."""
    outputs, inputs = delta.shape[:2]
    if delta.ndim == 2 and inputs < outputs:
        return LowRank(down=torch.eye(inputs), up=delta)
    return LowRank(down=delta, up=torch.eye(outputs))
