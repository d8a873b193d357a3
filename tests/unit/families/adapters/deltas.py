"""Changes of weights, as a test and peft compute them."""

from __future__ import annotations

import torch

from atelier.families.unet.adapters.adapter import Layers, LowRank


def delta(change: LowRank) -> torch.Tensor:
    """The change of a layer's weight."""
    return (change.up @ change.down.flatten(1)).reshape(len(change.up), *change.down.shape[1:])


def assert_equal(layers: Layers, expected: dict[str, torch.Tensor]) -> None:
    """Compare changes to those expected, name by name."""
    assert sorted(layers) == sorted(expected)
    for name, change in layers.items():
        assert torch.allclose(delta(change), expected[name], rtol=1e-5, atol=1e-6), name


def peft_deltas(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The changes that peft's only adapter makes to a model that it was added to."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            [adapter] = module.lora_A
            found[name] = module.get_delta_weight(adapter).detach()
    return found


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
