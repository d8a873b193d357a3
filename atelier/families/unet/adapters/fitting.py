"""Whether a LoRA fits a model."""

from __future__ import annotations

import torch

from atelier.core.errors import AdapterInvalid
from atelier.families.unet.adapters.adapter import Layers

_ADVICE = "The LoRA was trained for another base model; use it with that one."


def check_fits(layers: Layers, model: torch.nn.Module, *, name: str) -> None:
    """Check that every layer is a Linear or Conv2d of the model with the shape that the LoRA `name` was trained for.

    Raises AdapterInvalid, which names the LoRA, the layer and both shapes.
    """
    modules = dict(model.named_modules())
    for layer, change in layers.items():
        module = modules.get(layer)
        where = f"LoRA {name!r}: layer {layer!r} of {type(model).__name__}"
        if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            raise AdapterInvalid(f"{where} is not there, or is no Linear or Conv2d. {_ADVICE}", param="loras")
        made = [change.up.shape[0], *change.down.shape[1:]]
        if made != list(module.weight.shape):
            raise AdapterInvalid(
                f"{where} has a weight of {list(module.weight.shape)}, the file changes one of {made}. {_ADVICE}",
                param="loras",
            )
