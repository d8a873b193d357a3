"""Files of kohya's sd-scripts and LyCORIS' LoCon, by hand and by diffusers' own loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

from atelier.catalogue.catalogue import Catalogue
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.reading import read_adapter
from atelier.models.loading import load_scheduler, load_text_encoders, load_tokenizers, load_unet, load_vae
from tests.small_models import CPU
from tests.unit.families.adapters.deltas import assert_equal, peft_deltas, random_tensors

Modules = dict[Part, torch.nn.Module]

#: kohya's name, the model's name, shapes of down and up. Blocks by the names of SDXL's original checkpoint.
_ORIGINAL = [
    ("input_blocks_0_0", "conv_in", (3, 4, 3, 3), (16, 3, 1, 1)),
    ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1", (3, 16, 3, 3), (16, 3, 1, 1)),
    ("input_blocks_2_0_op", "down_blocks.0.downsamplers.0.conv", (3, 16, 3, 3), (16, 3, 1, 1)),
    ("input_blocks_3_0_emb_layers_1", "down_blocks.1.resnets.0.time_emb_proj", (3, 64), (24, 3)),
    ("input_blocks_3_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut", (3, 16, 1, 1), (24, 3, 1, 1)),
    ("input_blocks_3_1_proj_in", "down_blocks.1.attentions.0.proj_in", (3, 24), (24, 3)),
    (
        "input_blocks_5_1_transformer_blocks_0_attn2_to_k",
        "down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k",
        (3, 64),
        (32, 3),
    ),
    (
        "middle_block_1_transformer_blocks_0_ff_net_0_proj",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
        (3, 32),
        (256, 3),
    ),
    ("middle_block_2_out_layers_3", "mid_block.resnets.1.conv2", (3, 32, 3, 3), (32, 3, 1, 1)),
    (
        "output_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
        (3, 32),
        (32, 3),
    ),
    ("output_blocks_1_2_conv", "up_blocks.0.upsamplers.0.conv", (3, 32, 3, 3), (32, 3, 1, 1)),
    ("output_blocks_5_0_in_layers_2", "up_blocks.2.resnets.1.conv1", (3, 32, 3, 3), (16, 3, 1, 1)),
    ("time_embed_0", "time_embedding.linear_1", (3, 16), (64, 3)),
    ("label_emb_0_2", "add_embedding.linear_2", (3, 64), (64, 3)),
    ("out_2", "conv_out", (3, 16, 3, 3), (4, 3, 1, 1)),
]
_TEXT: list[tuple[str, str, Part, tuple[int, ...], tuple[int, ...]]] = [
    ("te1_text_model_encoder_layers_0_mlp_fc1", "encoder.layers.0.mlp.fc1", "text_encoder", (3, 24), (48, 3)),
    (
        "te2_text_model_encoder_layers_1_self_attn_out_proj",
        "text_model.encoder.layers.1.self_attn.out_proj",
        "text_encoder_2",
        (3, 40),
        (40, 3),
    ),
    ("te2_text_projection", "text_projection", "text_encoder_2", (3, 40), (32, 3)),
]


def _file(names: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], alpha: float | None) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (down, up) in names.items():
        shapes |= {f"lora_{name}.lora_down.weight": down, f"lora_{name}.lora_up.weight": up}
    alphas = {f"lora_{name}.alpha": torch.tensor(alpha) for name in names} if alpha is not None else {}
    return random_tensors(shapes) | alphas


def _product(tensors: dict[str, torch.Tensor], name: str, scale: float) -> torch.Tensor:
    down, up = tensors[f"lora_{name}.lora_down.weight"].float(), tensors[f"lora_{name}.lora_up.weight"].float()
    return torch.einsum("or,r...->o...", up.flatten(1), down) * scale


@pytest.mark.parametrize(("alpha", "scale"), [(1.5, 0.5), (6, 2.0), (None, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_blocks_of_the_original_checkpoint_and_both_text_encoders(
    tmp_path: Path, modules: Modules, alpha: float | None, scale: float, dtype: torch.dtype
) -> None:
    names = {f"unet_{kohya}": (down, up) for kohya, _, down, up in _ORIGINAL}
    names |= {kohya: (down, up) for kohya, _, _, down, up in _TEXT}
    tensors = _file(names, alpha)
    tensors = {key: tensor if key.endswith("alpha") else tensor.to(dtype) for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"ss_network_dim": "3"})
    adapter = read_adapter(tmp_path / "x.safetensors", name="x", modules=modules)
    assert_equal(adapter.unet, {name: _product(tensors, f"unet_{kohya}", scale) for kohya, name, _, _ in _ORIGINAL})
    for part, layers in (("text_encoder", adapter.text_encoder), ("text_encoder_2", adapter.text_encoder_2)):
        expected = {name: _product(tensors, kohya, scale) for kohya, name, own, _, _ in _TEXT if own == part}
        assert_equal(layers, expected)
    assert {change.down.dtype for change in adapter.unet.values()} == {torch.float32}


def test_blocks_by_diffusers_names_give_the_same_adapter(tmp_path: Path, modules: Modules) -> None:
    original = _file({f"unet_{kohya}": (down, up) for kohya, _, down, up in _ORIGINAL}, 2)
    diffusers = _file({f"unet_{name.replace('.', '_')}": (down, up) for _, name, down, up in _ORIGINAL}, 2)
    peft = {
        f"unet.{name}.{end}": original[f"lora_unet_{kohya}.{key}"] * factor
        for kohya, name, _, _ in _ORIGINAL
        for end, key, factor in (
            ("lora_A.weight", "lora_down.weight", 1),
            ("lora_B.weight", "lora_up.weight", torch.tensor(2.0) / 3),
        )
    }
    adapters = []
    for number, tensors in enumerate((original, diffusers, peft)):
        save_file(tensors, tmp_path / f"{number}.safetensors")
        adapters.append(read_adapter(tmp_path / f"{number}.safetensors", name="x", modules=modules))
    assert len({adapter.weights_hash for adapter in adapters}) == 1
    assert list(adapters[0].unet) == list(adapters[1].unet) == list(adapters[2].unet)


def test_one_other_value_gives_another_hash(tmp_path: Path, modules: Modules) -> None:
    tensors = _file({"unet_conv_in": ((3, 4, 3, 3), (16, 3, 1, 1))}, 3)
    hashes = set()
    for number in range(2):
        tensors["lora_unet_conv_in.lora_up.weight"][0, 0] += number
        save_file(tensors, tmp_path / "x.safetensors")
        hashes.add(read_adapter(tmp_path / "x.safetensors", name="x", modules=modules).weights_hash)
    assert len(hashes) == 2


def test_diffusers_reads_the_same_file_alike(tmp_path: Path, modules: Modules, small_catalogue: Catalogue) -> None:
    names = {f"unet_{kohya}": (down, up) for kohya, _, down, up in _ORIGINAL}
    names |= {kohya: (down, up) for kohya, _, _, down, up in _TEXT if "self_attn" in kohya}
    save_file(_file(names, 1.5), tmp_path / "x.safetensors")
    entry = small_catalogue.model(None)
    encoder, encoder_2 = load_text_encoders(entry, CPU)
    tokenizer, tokenizer_2 = load_tokenizers(entry)
    pipeline = StableDiffusionXLPipeline(
        vae=load_vae(entry, CPU),
        text_encoder=encoder,
        text_encoder_2=encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=load_unet(entry, CPU),
        scheduler=load_scheduler(entry),
    )
    pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors", name="x", modules=modules)
    assert_equal(adapter.unet, peft_deltas(pipeline.unet))
    assert_equal(adapter.text_encoder_2, peft_deltas(pipeline.text_encoder_2))


def test_a_convolution_in_cp_decomposition(tmp_path: Path, modules: Modules) -> None:
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    tensors = random_tensors(
        {
            f"{name}.lora_down.weight": (3, 16, 1, 1),
            f"{name}.lora_mid.weight": (3, 3, 3, 3),
            f"{name}.lora_up.weight": (16, 3, 1, 1),
        }
    )
    down, mid, up = tensors.values()
    save_file(tensors | {f"{name}.alpha": torch.tensor(6)}, tmp_path / "x.safetensors")
    [(layer, change)] = read_adapter(tmp_path / "x.safetensors", name="x", modules=modules).unet.items()
    assert (layer, change.rank) == ("down_blocks.0.resnets.0.conv1", 3)
    picture = torch.randn(1, 16, 5, 5, generator=torch.Generator().manual_seed(1))
    conv2d = torch.nn.functional.conv2d
    expected = 2 * conv2d(conv2d(conv2d(picture, down), mid, stride=2, padding=1), up)
    actual = conv2d(conv2d(picture, change.down, stride=2, padding=1), change.up[..., None, None])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_does_not_change_with_its_file(tmp_path: Path, modules: Modules) -> None:
    file = tmp_path / "x.safetensors"
    tensors = _file({"unet_conv_in": ((3, 4, 3, 3), (16, 3, 1, 1))}, 3)
    save_file(tensors, file)
    adapter = read_adapter(file, name="x", modules=modules)
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert torch.equal(adapter.unet["conv_in"].down, tensors["lora_unet_conv_in.lora_down.weight"])


def test_a_process_reads_the_layers_of_its_own_modules_only(tmp_path: Path, modules: Modules) -> None:
    names = {"unet_conv_in": ((3, 4, 3, 3), (16, 3, 1, 1))} | {kohya: (down, up) for kohya, _, _, down, up in _TEXT}
    save_file(_file(names, 3), tmp_path / "x.safetensors")
    unet = read_adapter(tmp_path / "x.safetensors", name="x", modules={"unet": modules.pop("unet")})
    texts = read_adapter(tmp_path / "x.safetensors", name="x", modules=modules)
    assert (len(unet.unet), len(unet.text_encoder), len(unet.text_encoder_2)) == (1, 0, 0)
    assert (len(texts.unet), len(texts.text_encoder), len(texts.text_encoder_2)) == (0, 1, 2)
