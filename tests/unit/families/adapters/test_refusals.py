"""Files that are refused, each with a message that says what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atelier.core.errors import AdapterInvalid
from atelier.families.unet.adapters import reading
from atelier.families.unet.adapters.adapter import LowRank
from atelier.families.unet.adapters.fitting import check_fits
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.reading import read_adapter
from tests.unit.families.adapters.deltas import random_tensors

Modules = dict[Part, torch.nn.Module]
Shapes = dict[str, tuple[int, ...]]

_TO_Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
_MODEL_TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
_CONV = "lora_unet_input_blocks_1_0_in_layers_2"


def _good() -> dict[str, torch.Tensor]:
    return random_tensors({f"{_TO_Q}.lora_down.weight": (4, 32), f"{_TO_Q}.lora_up.weight": (32, 4)})


def _refused(folder: Path, tensors: dict[str, torch.Tensor], modules: Modules) -> str:
    save_file(tensors, folder / "x.safetensors")
    with pytest.raises(AdapterInvalid) as refused:
        read_adapter(folder / "x.safetensors", name="my-style", modules=modules)
    assert (refused.value.param, refused.value.status) == ("loras", 400)
    message = str(refused.value)
    assert message.startswith("LoRA 'my-style': ")
    return message


@pytest.mark.parametrize(
    "key",
    [
        f"{_TO_Q}.dora_scale",
        "unet.conv_in.lora_magnitude_vector.weight",
        "base_model.model.conv_in.lora_magnitude_vector",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.dora_scale",
    ],
)
def test_dora_is_refused_by_its_name(tmp_path: Path, modules: Modules, key: str) -> None:
    message = _refused(tmp_path, _good() | {key: torch.ones(32)}, modules)
    assert f"its key {key!r} makes it a DoRA, which is not supported" in message


@pytest.mark.parametrize(
    "key",
    [
        f"{_TO_Q}.diff",
        f"{_TO_Q}.diff_b",
        f"{_TO_Q}.oft_blocks",
        f"{_TO_Q}.on_input",
        f"{_TO_Q}.scalar",
        f"{_TO_Q}.bias_values",
        "lora_te1_text_model_encoder_layers_0_layer_norm1.w_norm",
        "unet.conv_in.lora_B.bias",
        "unet.conv_in.lora_A.default.weight",
        "unet.time_embedding.ia3_l",
        "text_encoder.text_model.embeddings.token_embedding.lora_embedding_A",
        "model.diffusion_model.out.2.weight",
        "conv_in.weight",
    ],
)
def test_an_unknown_key_is_refused_by_its_name(tmp_path: Path, modules: Modules, key: str) -> None:
    assert f"its key {key!r} is not known" in _refused(tmp_path, _good() | {key: torch.ones(32)}, modules)


def test_no_tensor_is_loaded_before_all_keys_are_known(
    tmp_path: Path, modules: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(reading._Source, "tensor", lambda _, key: loaded.append(key))
    _refused(tmp_path, _good() | {"zzz.weight": torch.ones(1)}, modules)
    assert loaded == []


def test_other_formats_and_missing_files_are_refused(tmp_path: Path, modules: Modules) -> None:
    pickled = tmp_path / "x.safetensors"
    pickled.write_bytes(pickle.dumps(_good()))
    torch.save(_good(), tmp_path / "zip.safetensors")
    save_file(_good(), tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-1])
    for file in (pickled, tmp_path / "zip.safetensors", tmp_path / "cut.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(AdapterInvalid, match=rf"LoRA 'x': .*{file.name} cannot be read as safetensors"):
            read_adapter(file, name="x", modules=modules)


def test_a_file_without_tensors_is_refused(tmp_path: Path, modules: Modules) -> None:
    assert "holds no tensors" in _refused(tmp_path, {}, modules)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"lora_down.weight": (4, 32)}, "it has no 'up', only down"),
        ({"lora_up.weight": (32, 4)}, "it has no 'down', only up"),
        ({"alpha": ()}, "it has no 'down', only alpha"),
        ({"lora_down.weight": (257, 32), "lora_up.weight": (32, 257)}, "its rank is 257; allowed are 1 … 256"),
        ({"lora_down.weight": (0, 32), "lora_up.weight": (32, 0)}, "its rank is 0; allowed are 1 … 256"),
        (
            {"lora_down.weight": (4, 32), "lora_up.weight": (32, 3)},
            r"'down' is [4, 32] and its 'up' [32, 3], which must be [out, 4]",
        ),
        (
            {"lora_down.weight": (4, 32), "lora_up.weight": (32, 4, 3, 3)},
            "and its 'up' [32, 4, 3, 3], which must be [out, 4]",
        ),
        ({"lora_down.weight": (32,), "lora_up.weight": (32, 4)}, "'down' is [32]; it must have two dimensions"),
        ({"lora_down.weight": (4, 32), "lora_up.weight": (32, 4), "alpha": (2,)}, "'alpha' is [2]; it must be one"),
        ({"lora_down.weight": (4, 32), "lora_up.weight": (32, 4), "lokr_w1": (4, 4)}, "it has down, up besides"),
        (
            {"lora_down.weight": (4, 32), "lora_up.weight": (32, 4), "lora_mid.weight": (4, 5, 3, 3)},
            "'mid' is [4, 5, 3, 3]",
        ),
        (
            {"lora_down.weight": (4, 32, 3, 3), "lora_up.weight": (32, 4), "lora_mid.weight": (4, 4, 3, 3)},
            "'mid' is [4, 4, 3, 3] and its 'down' [4, 32, 3, 3]",
        ),
        ({"hada_w1_a": (32, 4), "hada_w1_b": (4, 32), "hada_w2_a": (32, 4)}, "it has no 'hada_w2_b'"),
        (
            {"hada_w1_a": (32, 4), "hada_w1_b": (3, 32), "hada_w2_a": (32, 4), "hada_w2_b": (4, 32)},
            "do not go together",
        ),
        (
            {"hada_w1_a": (32, 0), "hada_w1_b": (0, 32), "hada_w2_a": (32, 4), "hada_w2_b": (4, 32)},
            "do not go together",
        ),
        (
            {"hada_w1_a": (32, 4), "hada_w1_b": (4, 32), "hada_w2_a": (32, 4), "hada_w2_b": (4, 1)},
            "its factors make [32, 1], the layer has [32, 32]",
        ),
        ({"lokr_w1": (4, 4), "lokr_w2": (8, 8), "lokr_w2_a": (8, 2)}, "it has lokr_w2_a besides 'lokr_w2'"),
        ({"lokr_w1": (4, 4), "hada_w1_a": (4, 4)}, "it has lokr_w1 besides the factors hada_"),
        ({"lokr_w1": (4, 4)}, "it has no 'lokr_w2_a'"),
        ({"lokr_w1": (4, 4), "lokr_w2": (8, 9)}, "its factors make [32, 36], the layer has [32, 32]"),
        ({"lokr_w1": (4, 4), "lokr_w2": (8, 8, 3, 3)}, "its 'lokr_w2' is [8, 8, 3, 3]; its kernel must be []"),
        (
            {"lokr_w1": (4, 4), "lokr_w2_a": (2, 8), "lokr_w2_b": (2, 8), "lokr_t2": (2, 2, 3, 3)},
            "do not go together with the kernel []",
        ),
        # Small factors of a product that would not fit into memory.
        (
            {"lokr_w1": (1000, 1000), "lokr_w2_a": (200_000, 1), "lokr_w2_b": (1, 200_000)},
            "its factors make [200000000",
        ),
    ],
)
def test_factors_that_do_not_go_together_are_refused(
    tmp_path: Path, modules: Modules, shapes: Shapes, message: str
) -> None:
    text = _refused(tmp_path, random_tensors({f"{_TO_Q}.{key}": shape for key, shape in shapes.items()}), modules)
    assert f"layer {_MODEL_TO_Q!r} of the unet: " in text
    assert message in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("end", ["lora_down.weight", "lora_up.weight"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, modules: Modules, end: str, value: float) -> None:
    tensors = _good()
    tensors[f"{_TO_Q}.{end}"][1, 2] = value
    assert f"layer {_MODEL_TO_Q!r} of the unet: it holds values that are not finite" in _refused(
        tmp_path, tensors, modules
    )


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_an_alpha_without_meaning_is_refused(tmp_path: Path, modules: Modules, alpha: float) -> None:
    message = _refused(tmp_path, _good() | {f"{_TO_Q}.alpha": torch.tensor(alpha)}, modules)
    assert f"'alpha' is {alpha}; it must be a finite number other than 0" in message


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.complex64, "C64"), (torch.float4_e2m1fn_x2, "F4")],
)
def test_weights_of_another_type_are_refused(tmp_path: Path, modules: Modules, dtype: torch.dtype, name: str) -> None:
    tensors = {key: torch.zeros(4, 32, dtype=torch.uint8).view(dtype) for key in _good()}
    assert f"is of type {name}; allowed are F64, F32, F16, BF16" in _refused(tmp_path, tensors, modules)


def test_a_layer_given_twice_is_refused(tmp_path: Path, modules: Modules) -> None:
    other = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    again = {key.replace(_TO_Q, other): tensor.clone() for key, tensor in _good().items()}
    assert "are the same layer" in _refused(tmp_path, _good() | again, modules)
    spelling = {f"{_TO_Q}.lora_A.weight": torch.ones(4, 32)}
    assert "are the same factor of one layer" in _refused(tmp_path, _good() | spelling, modules)


@pytest.mark.parametrize(
    "layer",
    [
        "lora_unet_down_blocks_7_resnets_0_conv1",
        "lora_unet_mid_block_resnets_0_norm1",
        "lora_te1_text_model_encoder_layers_11_mlp_fc1",
        "lora_te2_text_model_embeddings_token_embedding",
        "transformer.single_transformer_blocks.0.proj_out",
    ],
)
def test_a_layer_that_the_model_lacks_is_refused(tmp_path: Path, modules: Modules, layer: str) -> None:
    tensors = random_tensors({f"{layer}.lora_down.weight": (4, 32), f"{layer}.lora_up.weight": (32, 4)})
    message = _refused(tmp_path, tensors, modules)
    assert f"{layer!r} is no Linear or Conv2d of this model's" in message
    assert "trained for another base model" in message


@pytest.mark.parametrize(
    ("layer", "down", "up", "made"),
    [
        (_TO_Q, (4, 320), (320, 4), "[32, 32], the file changes one of [320, 320]"),
        (_TO_Q, (4, 32, 1, 1), (32, 4, 1, 1), "[32, 32], the file changes one of [32, 32, 1, 1]"),
        (_CONV, (4, 16), (16, 4), "[16, 16, 3, 3], the file changes one of [16, 16]"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", (4, 768), (3072, 4), "[48, 24], the file changes one of"),
    ],
)
def test_a_layer_of_another_shape_is_refused(
    tmp_path: Path, modules: Modules, layer: str, down: tuple[int, ...], up: tuple[int, ...], made: str
) -> None:
    tensors = random_tensors({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up})
    message = _refused(tmp_path, tensors, modules)
    assert f"has a weight of {made}" in message
    assert "trained for another base model" in message


def test_changes_of_layers_without_a_weight_to_change_do_not_fit(modules: Modules) -> None:
    change = LowRank(down=torch.ones(2, 32), up=torch.ones(32, 2))
    check_fits({_MODEL_TO_Q: change}, modules["unet"], name="x")
    for layer in ("mid_block.resnets.0.norm1", "mid_block.nothing"):
        with pytest.raises(AdapterInvalid, match=f"LoRA 'x': layer '{layer}' of UNet2DConditionModel is not there"):
            check_fits({layer: change}, modules["unet"], name="x")
