"""What the bits of a model call depend on besides its input, as short hashes."""

from __future__ import annotations

import hashlib
import json

import torch

from atelier.models.loading import Placement


def place_hash(placement: Placement, *, num_threads: int, width: int) -> str:
    """Of device model, precision, torch, threads and the rows of a call."""
    is_gpu = placement.device != "cpu"
    parts = {
        "device": torch.cuda.get_device_name() if is_gpu else torch.backends.cpu.get_cpu_capability(),
        "dtype": placement.dtype_name,
        "torch": torch.__version__,
        "num_threads": None if is_gpu else num_threads,
        "width": width,
        "attention": "scaled_dot_product_attention",
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def weights_hash(*modules: torch.nn.Module) -> str:
    """Of the names and values of their tensors in the precision they run in, whatever files they came from."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
