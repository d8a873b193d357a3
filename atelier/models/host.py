"""The UNets of a replica, leased for a call at a time so that what is loaded can change between steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.entries import ModelEntry
from atelier.models.loading import Placement, load_unet


class ModelHost:
    """Owns the modules; whoever runs one holds a lease and keeps nothing of it."""

    def __init__(self, entries: Iterable[ModelEntry], placement: Placement) -> None:
        """Raises ModelUnavailable if files are missing."""
        self._unets = {entry.id: _load(entry, placement) for entry in entries}

    @contextmanager
    def acquire(self, model: str) -> Iterator[UNet2DConditionModel]:
        """The UNet of the model, for as long as the context is open."""
        yield self._unets[model]


def _load(entry: ModelEntry, placement: Placement) -> UNet2DConditionModel:
    """Convolutions read channels last faster: 3–6 % of a call on the CPU."""
    return load_unet(entry, placement).to(memory_format=torch.channels_last)
