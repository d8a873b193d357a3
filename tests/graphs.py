"""A stand-in for CUDA's graphs, so that what surrounds them runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable

from atelier.families.unet.graphs import Tensors


class Captured:
    """Stands in for CUDA's graphs: a run computes again, and fills the tensors of the first run."""

    def __init__(self) -> None:
        self.num_captured = self.num_runs = 0

    def __call__(self, call: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        tensors = call()
        self.num_captured += 1

        def run() -> None:
            self.num_runs += 1
            for old, new in zip(tensors, call(), strict=True):
                old.copy_(new)

        return run, tensors
