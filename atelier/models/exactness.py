"""What the bits of a model call depend on besides its input, as one short key."""

from __future__ import annotations

import hashlib
import json

import torch

from atelier.core.conditioning import ExactnessKey
from atelier.models.loading import Placement


def exactness_key(placement: Placement, *, num_threads: int, width: int) -> ExactnessKey:
    """A hash of device model, precision, torch, threads and the rows of a call; equal keys give equal bits."""
    is_gpu = placement.device != "cpu"
    parts = {
        "device": torch.cuda.get_device_name() if is_gpu else torch.backends.cpu.get_cpu_capability(),
        "dtype": placement.dtype_name,
        "torch": torch.__version__,
        "num_threads": None if is_gpu else num_threads,
        "width": width,
        "attention": "scaled_dot_product_attention",
    }
    return ExactnessKey(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16])
