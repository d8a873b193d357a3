"""Makes one operation of PyTorch fail, for tests of what a failure leaves behind."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class FailAt(TorchDispatchMode):
    """Makes one operation of PyTorch fail: the one with this index, counted while the mode is on."""

    def __init__(self, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = itertools.count()
        self._index = index

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if next(self._counts) == self._index:
            raise MemoryError(f"no memory for {func}")
        return func(*args, **(kwargs or {}))
