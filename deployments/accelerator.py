"""A replica's share of its device. Imports torch, so deployments import this module only in their constructors."""

from __future__ import annotations

import ray
import torch

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
