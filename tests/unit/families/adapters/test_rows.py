"""LoRAs per row against the same layers with their changes merged into the weights."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional

from atelier.families.unet.adapters.adapter import Layers, LowRank
from atelier.families.unet.adapters.rows import applied, combined, forms, in_faster_form, install_row_changes, stacked
from atelier.families.unet.adapters.slots import AdapterSlots

_LINEAR, _CONVOLUTION = "blocks.0.linear", "convolution"


class _Model(torch.nn.Module):
    """A linear layer over tokens or vectors, and a convolution with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"linear": torch.nn.Linear(6, 5)})])
        self.convolution = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)


@pytest.fixture
def model() -> _Model:
    torch.manual_seed(0)
    model = _Model().eval()
    install_row_changes(model)
    return model


def _change(*shape: int, rank: int) -> LowRank:
    """A random change of a weight of this shape, [out, in] or [out, in, kernel, kernel]."""
    return LowRank(torch.randn(rank, *shape[1:]), torch.randn(shape[0], rank))


def _layers(*, rank: int) -> Layers:
    return {_LINEAR: _change(5, 6, rank=rank), _CONVOLUTION: _change(4, 3, 3, 3, rank=rank)}


def _merged(weight: torch.Tensor, changes: Sequence[LowRank]) -> torch.Tensor:
    for change in changes:
        weight = weight + torch.einsum("or,r...->o...", change.up, change.down)
    return weight


def _linear(model: _Model, x: torch.Tensor, *changes: LowRank) -> torch.Tensor:
    linear = model.get_submodule(_LINEAR)
    assert isinstance(linear, torch.nn.Linear)
    return functional.linear(x, _merged(linear.weight, changes), linear.bias)


@pytest.mark.parametrize("shape", [(3, 6), (3, 7, 6)], ids=["vectors", "tokens"])
@torch.inference_mode()
def test_every_row_of_a_linear_layer_has_its_own_change(model: _Model, shape: Sequence[int]) -> None:
    x, first, third = torch.randn(*shape), _layers(rank=2), _layers(rank=4)
    with applied(stacked([first, {}, third])):
        y = model.get_submodule(_LINEAR)(x)
    torch.testing.assert_close(y[0], _linear(model, x[0], first[_LINEAR]))
    assert torch.equal(y[1], model.get_submodule(_LINEAR)(x)[1])
    torch.testing.assert_close(y[2], _linear(model, x[2], third[_LINEAR]))


@torch.inference_mode()
def test_every_row_of_a_convolution_has_its_own_change(model: _Model) -> None:
    x, second = torch.randn(2, 3, 8, 10), _layers(rank=3)
    with applied(stacked([{}, second])):
        y = model.convolution(x)
    assert torch.equal(y[0], model.convolution(x)[0])
    expected = functional.conv2d(
        x[1:], _merged(model.convolution.weight, [second[_CONVOLUTION]]), model.convolution.bias, 2, 1
    )
    torch.testing.assert_close(y[1:], expected)


@pytest.mark.parametrize("shape", [(3, 6), (3, 7, 6)], ids=["vectors", "tokens"])
@pytest.mark.parametrize("has_bias", [True, False])
@torch.inference_mode()
def test_rows_with_weights_of_their_own_are_those_with_factors(
    model: _Model, shape: Sequence[int], has_bias: bool
) -> None:
    if not has_bias:
        model.get_submodule(_LINEAR).register_parameter("bias", None)
    x, first, third = torch.randn(*shape), _layers(rank=2), _layers(rank=4)
    with applied(stacked([first, {}, third])):
        expected = model.get_submodule(_LINEAR)(x)
    slots, requests = AdapterSlots(), [in_faster_form(model, layers) for layers in (first, {}, third)]
    for slot, layers in enumerate(requests):
        slots.write([slot], layers)
    changes = slots.read(slice(0, 3), [forms(layers) for layers in requests])
    assert changes[_LINEAR].weights is not None
    with applied(changes):
        torch.testing.assert_close(model.get_submodule(_LINEAR)(x), expected)


def test_large_layers_have_factors_and_small_ones_weights() -> None:
    model = torch.nn.ModuleDict({"large": torch.nn.Linear(640, 640), "small": torch.nn.Linear(128, 128)})
    low = in_faster_form(model, {"large": _change(640, 640, rank=64), "small": _change(128, 128, rank=1)})
    assert forms(low) == {"large": 64, "small": None}
    high = in_faster_form(model, {"large": _change(640, 640, rank=640)})
    assert forms(high) == {"large": None}


def test_convolutions_have_factors(model: _Model) -> None:
    assert forms(in_faster_form(model, _layers(rank=3))) == {_LINEAR: None, _CONVOLUTION: 3}


@torch.inference_mode()
def test_combined_loras_add_up_by_their_weights(model: _Model) -> None:
    x, first, second = torch.randn(1, 6), _layers(rank=2), _layers(rank=3)
    del second[_CONVOLUTION]  # type: ignore[attr-defined]
    together = combined([(first, 0.5), (second, -2.0)])
    assert {name: change.rank for name, change in together.items()} == {_LINEAR: 5, _CONVOLUTION: 2}
    with applied(stacked([together])):
        y = model.get_submodule(_LINEAR)(x)
    scaled = [LowRank(of[_LINEAR].down, w * of[_LINEAR].up) for of, w in ((first, 0.5), (second, -2.0))]
    torch.testing.assert_close(y, _linear(model, x, *scaled))


@torch.inference_mode()
def test_a_row_with_nan_spoils_no_other(model: _Model) -> None:
    x, sound = torch.randn(2, 6), _layers(rank=2)
    poisoned = {name: LowRank(change.down * float("nan"), change.up) for name, change in _layers(rank=4).items()}
    with applied(stacked([sound, sound])):
        alone = model.get_submodule(_LINEAR)(x)[0]
    with applied(stacked([sound, poisoned])):
        y = model.get_submodule(_LINEAR)(x)
    torch.testing.assert_close(y[0], alone)
    assert y[1].isnan().all()


def test_layers_are_plain_again_afterwards(model: _Model) -> None:
    x = torch.randn(1, 6)
    plain = model.get_submodule(_LINEAR)(x)
    with pytest.raises(RuntimeError), applied(stacked([_layers(rank=2)])):
        model.get_submodule(_LINEAR)(torch.randn(1, 7))
    assert torch.equal(model.get_submodule(_LINEAR)(x), plain)
