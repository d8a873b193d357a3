"""The loaded modules of a replica; a caller leases one for a single call, so that no call keeps a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


class ModelHost(Generic[M]):
    """Owns the modules of a replica. Callers lease a module for a call and keep no reference to it."""

    def __init__(self, modules: Mapping[str, M]) -> None:
        self._modules = dict(modules)

    @contextmanager
    def acquire(self, model: str) -> Iterator[M]:
        """Lease the module with this catalogue id while the context is open."""
        yield self._modules[model]
