"""Short hashes of everything that the bits of a model call depend on besides its input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import chain

import torch

from atelier.models.loading import Placement

_LIBRARIES = ("diffusers", "numpy", "opencv-python-headless", "pillow", "torch", "transformers")


def place_hash(placement: Placement, *, num_threads: int, width: int) -> str:
    """Hash everything outside the weights that bits depend on.

    It covers device model, precision, library versions, threads, rows per call (`width`) and attention backend. With
    a GPU it also covers the instructions of the CPU, which draws the noise.
    """
    is_gpu = placement.device != "cpu"
    parts = {
        "device": _gpu() if is_gpu else None,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "dtype": placement.dtype_name,
        "libraries": [version(name) for name in _LIBRARIES],
        "num_threads": None if is_gpu else num_threads,
        "width": width,
        "attention": "scaled_dot_product_attention",
    }
    if placement.uses_graphs:
        # They pad rows to other numbers.
        parts["graphs"] = True
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _gpu() -> list[object]:
    """Return the GPU's model, its libraries' versions, and the attention kernels that PyTorch may choose from."""
    kernels = torch.backends.cuda
    chosen = [kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled(), kernels.cudnn_sdp_enabled()]
    return [torch.cuda.get_device_name(), torch.version.cuda, torch.backends.cudnn.version(), chosen]


def weights_hash(*modules: torch.nn.Module, settings: Mapping[str, object] | None = None) -> str:
    """Hash `settings` and the modules' parameters and buffers, by name and in the precision they run in.

    The hash does not depend on the files that the weights came from, nor on their layout in memory. Settings whose
    names begin with an underscore are skipped: diffusers records file names and versions in them.
    """
    named = chain.from_iterable(module.state_dict().items() for module in modules)
    return tensors_hash(named, settings=settings)


def tensors_hash(named: Iterable[tuple[str, torch.Tensor]], *, settings: Mapping[str, object] | None = None) -> str:
    """Hash `settings` and tensors, by name and in their precision, as `weights_hash` does."""
    digest = hashlib.sha256(_settings_json(settings or {}).encode())
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _settings_json(settings: Mapping[str, object]) -> str:
    return json.dumps({name: settings[name] for name in sorted(settings) if not name.startswith("_")}, default=str)
