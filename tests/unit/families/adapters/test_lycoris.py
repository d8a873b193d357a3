"""LoHa and LoKr as LyCORIS writes them, against the formulas in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.reading import read_adapter
from tests.unit.families.adapters.deltas import delta, random_tensors

Modules = dict[Part, torch.nn.Module]
Shapes = dict[str, tuple[int, ...]]

#: kohya's name of a layer and the shape of its weight.
_WIDE = ("lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2", (32, 128))
_TALL = ("lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj", (256, 32))
_CONV = ("lora_unet_input_blocks_3_0_in_layers_2", (24, 16, 3, 3))
_POINT = ("lora_unet_input_blocks_3_0_skip_connection", (24, 16, 1, 1))


def _read(folder: Path, modules: Modules, name: str, shapes: Shapes, alpha: float | None) -> tuple[torch.Tensor, int]:
    tensors = {f"{name}.{factor}": tensor for factor, tensor in random_tensors(shapes).items()}
    if alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, folder / "x.safetensors")
    [change] = read_adapter(folder / "x.safetensors", name="x", modules=modules).unet.values()
    return delta(change), change.rank


@pytest.mark.parametrize(("alpha", "scale"), [(2.0, 0.5), (None, 1.0)])
@pytest.mark.parametrize(("layer", "rank"), [(_WIDE, 32), (_TALL, 32), (_CONV, 24), (_POINT, 24)])
def test_loha_is_the_elementwise_product_of_two_matrices(
    tmp_path: Path,
    modules: Modules,
    layer: tuple[str, tuple[int, ...]],
    rank: int,
    alpha: float | None,
    scale: float,
) -> None:
    name, shape = layer
    inputs = int(np.prod(shape[1:]))
    shapes: Shapes = {
        f"hada_w{i}_{side}": (shape[0], 4) if side == "a" else (4, inputs) for i in "12" for side in "ab"
    }
    actual, actual_rank = _read(tmp_path, modules, name, shapes, alpha)
    w1_a, w1_b, w2_a, w2_b = (tensor.numpy() for tensor in random_tensors(shapes).values())
    expected = ((w1_a @ w1_b) * (w2_a @ w2_b) * scale).reshape(shape)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert actual_rank == rank


def test_loha_of_a_convolution_with_tucker_cores(tmp_path: Path, modules: Modules) -> None:
    name, shape = _CONV
    shapes: Shapes = {}
    for i in "12":
        shapes |= {f"hada_w{i}_a": (4, 24), f"hada_w{i}_b": (4, 16), f"hada_t{i}": (4, 4, 3, 3)}
    actual, _ = _read(tmp_path, modules, name, shapes, 2.0)
    factors = [tensor.double().numpy() for tensor in random_tensors(shapes).values()]
    expected = np.full(shape, 0.5)
    for a, b, core in (factors[:3], factors[3:]):
        for y, x in np.ndindex(3, 3):
            expected[:, :, y, x] *= a.T @ core[:, :, y, x] @ b
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "scale"),
    [
        ({"lokr_w1": (4, 8)}, {"lokr_w2": (8, 16)}, 1.0),
        ({"lokr_w1": (4, 8)}, {"lokr_w2_a": (8, 2), "lokr_w2_b": (2, 16)}, 3.0),
        ({"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 8)}, {"lokr_w2": (8, 16)}, 3.0),
        ({"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 8)}, {"lokr_w2_a": (8, 2), "lokr_w2_b": (2, 16)}, 3.0),
    ],
)
def test_lokr_is_the_kronecker_product_and_alpha_counts_with_a_low_rank_factor(
    tmp_path: Path, modules: Modules, first: Shapes, second: Shapes, scale: float
) -> None:
    actual, _ = _read(tmp_path, modules, _WIDE[0], first | second, 6.0)
    tensors = random_tensors(first | second)
    left, right = (
        np.linalg.multi_dot([tensors[name].numpy() for name in names])
        if len(names) > 1
        else tensors[names[0]].numpy()
        for names in (list(first), list(second))
    )
    np.testing.assert_allclose(actual.numpy(), np.kron(left, right) * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "second",
    [
        {"lokr_w2": (8, 4, 3, 3)},
        {"lokr_w2_a": (8, 2), "lokr_w2_b": (2, 36)},
        {"lokr_w2_a": (2, 8), "lokr_w2_b": (2, 4), "lokr_t2": (2, 2, 3, 3)},
    ],
)
def test_lokr_of_a_convolution(tmp_path: Path, modules: Modules, second: Shapes) -> None:
    name, shape = _CONV
    actual, _ = _read(tmp_path, modules, name, {"lokr_w1": (3, 4)} | second, 4.0)
    left, *factors = (tensor.numpy() for tensor in random_tensors({"lokr_w1": (3, 4)} | second).values())
    expected = np.empty(shape)
    for y, x in np.ndindex(3, 3):
        if len(factors) == 1:
            right = factors[0][:, :, y, x]
        elif len(factors) == 2:
            right = 2 * factors[0] @ factors[1].reshape(2, 4, 3, 3)[:, :, y, x]
        else:
            right = 2 * factors[0].T @ factors[2][:, :, y, x] @ factors[1]
        expected[:, :, y, x] = np.kron(left, right)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-4)
