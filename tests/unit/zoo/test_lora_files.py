"""LoRA files in every layout, read back by diffusers and compared with what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import safe_open

from zoo import lora_files, lora_folder
from zoo.lora_recipes import RECIPES
from zoo.sdxl import new_unet


@pytest.fixture
def adapted() -> PeftModel:
    """A UNet with random changes of linear layers and convolutions, which have a rank and an alpha of their own."""
    torch.manual_seed(1)
    model = get_peft_model(new_unet(), RECIPES["outline"].configs()["unet"])
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    return model


def _changes(unet: torch.nn.Module, adapter: str) -> dict[str, torch.Tensor]:
    return {name: layer.get_delta_weight(adapter) for name, layer in lora_files.lora_layers(unet)}


def _read_by_diffusers(file: Path) -> dict[str, torch.Tensor]:
    unet = new_unet()
    lora_files.load_into_unet(file, unet, "read")
    return _changes(unet, "read")


def _check_equal(found: dict[str, torch.Tensor], adapted: PeftModel) -> None:
    expected = _changes(adapted.get_base_model(), "default")
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change, msg=name)


@pytest.mark.parametrize("layers_per_block", [None, 1], ids=["diffusers' names", "SDXL's original names"])
def test_diffusers_reads_kohya_files_as_they_were_trained(
    adapted: PeftModel, tmp_path: Path, layers_per_block: int | None
) -> None:
    file = tmp_path / "lora.safetensors"
    lora_files.write_kohya(adapted, file, {"ss_network_dim": "16"}, layers_per_block=layers_per_block)
    _check_equal(_read_by_diffusers(file), adapted)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"ss_network_dim": "16"}


def test_diffusers_reads_its_own_files_as_they_were_trained(adapted: PeftModel, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    lora_files.write_diffusers({"unet": adapted}, file)
    _check_equal(_read_by_diffusers(file), adapted)


def test_peft_reads_its_own_files_as_they_were_trained(adapted: PeftModel, tmp_path: Path) -> None:
    lora_files.write_peft(adapted, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    read = PeftModel.from_pretrained(new_unet(), tmp_path)
    _check_equal(_changes(read.get_base_model(), "default"), adapted)


def test_another_lora_beside_the_trained_one_is_not_written(adapted: PeftModel, tmp_path: Path) -> None:
    expected = _changes(adapted.get_base_model(), "default")
    adapted.add_adapter("beside", RECIPES["neon"].configs()["unet"])
    lora_files.write_peft(adapted, tmp_path / "peft")
    assert len(list((tmp_path / "peft").iterdir())) == 2
    lora_files.write_kohya(adapted, tmp_path / "kohya.safetensors", {}, layers_per_block=1)
    assert _read_by_diffusers(tmp_path / "kohya.safetensors").keys() == expected.keys()


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.attn1.to_q",
            "input_blocks.8.1.transformer_blocks.9.attn1.to_q",
        ),
        ("mid_block.resnets.0.time_emb_proj", "middle_block.0.emb_layers.1"),
        ("mid_block.attentions.0.transformer_blocks.3.ff.net.2", "middle_block.1.transformer_blocks.3.ff.net.2"),
        ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.1.attentions.2.proj_in", "output_blocks.5.1.proj_in"),
        ("up_blocks.2.resnets.0.conv2", "output_blocks.6.0.out_layers.3"),
    ],
)
def test_original_names_are_those_of_sdxl(name: str, original: str) -> None:
    assert lora_files.original_name(name, layers_per_block=2) == original


def test_kohya_header_counts_the_parts_of_captions() -> None:
    header = lora_folder.kohya_header(RECIPES["outline"], ["a star, red background"] * 3, num_steps=5)
    assert header["ss_tag_frequency"] == '{"1_tiny-outline": {"a star": 3, "red background": 3}}'
    assert header["ss_network_dim"] == "16"
    assert header["ss_network_alpha"] == "8.0"
    assert header["ss_network_args"] == '{"conv_dim": "8", "conv_alpha": "4"}'
