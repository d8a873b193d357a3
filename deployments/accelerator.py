"""A replica's share of its device, and what it says of it.

Imports torch, so deployments import this module only in their constructors.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import ray
import torch
from ray import serve

from atelier.core.status import Device
from atelier.models.gpus import GpuReader
from atelier.models.host import HostStatus
from atelier.models.loading import Placement
from atelier.models.memory import Memory
from deployments.options import ReplicaOptions

_GIB = 2**30


def placement(options: ReplicaOptions) -> Placement:
    """Return a replica's device, precision and memory; limit the last to the fraction of the GPU that Ray assigned.

    Raises RuntimeError if the options name a GPU and there is none.
    """
    device_bytes = math.inf if options.memory_gib is None else options.memory_gib * _GIB
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("device is cuda, but this replica sees no GPU; give it num_gpus, or use device: cpu")
        # Ray counts GPU fractions but does not enforce them: without a limit a replica can take others' memory.
        fraction = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
        torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))
        _, total_bytes = torch.cuda.mem_get_info()
        device_bytes = min(device_bytes, fraction * total_bytes)
    host_bytes = int(options.host_memory_gib * _GIB)
    memory = Memory(device_bytes=device_bytes, host_bytes=host_bytes, level=options.memory_level)
    return Placement(options.device, options.dtype, memory)


class OwnDevice:
    """The device of this replica."""

    def __init__(self, placement: Placement, memory: Callable[[], HostStatus]) -> None:
        """`memory` returns which models the replica has in memory."""
        self._gpu = GpuReader(placement.device)
        self._memory = memory

    async def read(self) -> Device:
        """Return the device as it is now. Raises what `GpuReader.read` raises."""
        return Device(
            replica=serve.get_replica_context().replica_id.unique_id,
            node=ray.get_runtime_context().get_node_id(),
            gpu=await asyncio.to_thread(self._gpu.read),
            models=self._memory().models,
        )
