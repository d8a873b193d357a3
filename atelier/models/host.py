"""The modules of a replica, leased for a call at a time so that what is loaded can change between steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


class ModelHost(Generic[M]):
    """Owns the modules; whoever runs one holds a lease and keeps nothing of it."""

    def __init__(self, modules: Mapping[str, M]) -> None:
        self._modules = dict(modules)

    @contextmanager
    def acquire(self, model: str) -> Iterator[M]:
        """The module of that id in the catalogue, for as long as the context is open."""
        yield self._modules[model]
