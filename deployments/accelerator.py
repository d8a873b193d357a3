"""A replica's share of its device. Imports torch: only constructors import this."""

from __future__ import annotations

import ray
import torch

from atelier.models.loading import Placement
from deployments.options import ReplicaOptions


def placement(options: ReplicaOptions) -> Placement:
    """Where the replica's modules go; on a GPU its memory is held to the fraction Ray gave it.

    Raises:
        RuntimeError: a GPU is asked for and there is none.
    """
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("device is cuda, but this replica sees no GPU; give it num_gpus, or use device: cpu")
        # Ray's fractions are bookkeeping only: without this one replica can take its neighbours' memory.
        fraction = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
        torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))
    return Placement(options.device, options.dtype)
