"""A replica's share of its device, and what it says of it.

Imports torch, so deployments import this module only in their constructors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import ray
import torch
from ray import serve

from atelier.catalogue.entries import ModelEntry
from atelier.core.status import Device
from atelier.models.gpus import GpuReader
from atelier.models.loading import Placement
from deployments.options import ReplicaOptions


def placement(options: ReplicaOptions) -> Placement:
    """Return a replica's device and precision; limit its GPU memory to the fraction of the GPU that Ray assigned.

    Raises RuntimeError if the options name a GPU and there is none.
    """
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("device is cuda, but this replica sees no GPU; give it num_gpus, or use device: cpu")
        # Ray counts GPU fractions but does not enforce them: without a limit a replica can take others' memory.
        fraction = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
        torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))
    return Placement(options.device, options.dtype)


class OwnDevice:
    """The device of this replica."""

    def __init__(self, placement: Placement, models: Iterable[ModelEntry]) -> None:
        """`models` are those of which the replica holds weights."""
        self._gpu = GpuReader(placement.device)
        self._models = tuple(entry.id for entry in models)

    async def read(self) -> Device:
        """Return the device as it is now. Raises what `GpuReader.read` raises."""
        return Device(
            replica=serve.get_replica_context().replica_id.unique_id,
            node=ray.get_runtime_context().get_node_id(),
            gpu=await asyncio.to_thread(self._gpu.read),
            models=self._models,
        )
