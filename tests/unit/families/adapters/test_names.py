"""Names of layers in the real SDXL, on modules without weights."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from atelier.families.unet.adapters.keys import by_layer
from atelier.families.unet.adapters.names import layer_names, plain
from benchmarks.sdxl_size import new_unet


@cache
def _names() -> dict[str, dict[str, str]]:
    with torch.device("meta"):
        unet = new_unet()
        first = CLIPTextModel(CLIPTextConfig(hidden_size=768, num_attention_heads=12, num_hidden_layers=12))
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=1280, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280)
        )
    return {"unet": layer_names(unet), "text_encoder": layer_names(first), "text_encoder_2": layer_names(second)}


@pytest.mark.parametrize(
    ("kohya", "expected"),
    [
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("lora_unet_input_blocks_5_1_proj_out", "down_blocks.1.attentions.1.proj_out"),
        (
            "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_out_0",
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0",
        ),
        (
            "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj",
            "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
        ),
        ("lora_unet_middle_block_0_in_layers_2", "mid_block.resnets.0.conv1"),
        ("lora_unet_middle_block_2_emb_layers_1", "mid_block.resnets.1.time_emb_proj"),
        (
            "lora_unet_output_blocks_0_1_transformer_blocks_3_ff_net_2",
            "up_blocks.0.attentions.0.transformer_blocks.3.ff.net.2",
        ),
        ("lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_5_1_proj_in", "up_blocks.1.attentions.2.proj_in"),
        ("lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_output_blocks_8_0_skip_connection", "up_blocks.2.resnets.2.conv_shortcut"),
        ("lora_unet_input_blocks_0_0", "conv_in"),
        ("lora_unet_input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("lora_unet_input_blocks_2_0_out_layers_3", "down_blocks.0.resnets.1.conv2"),
        ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_input_blocks_6_0_op", "down_blocks.1.downsamplers.0.conv"),
        ("lora_unet_out_2", "conv_out"),
        ("lora_unet_time_embed_0", "time_embedding.linear_1"),
        ("lora_unet_time_embed_2", "time_embedding.linear_2"),
        ("lora_unet_label_emb_0_0", "add_embedding.linear_1"),
        ("lora_unet_label_emb_0_2", "add_embedding.linear_2"),
        ("lora_unet_up_blocks_1_attentions_2_proj_in", "up_blocks.1.attentions.2.proj_in"),
        ("lycoris_up_blocks_1_attentions_2_proj_in", "up_blocks.1.attentions.2.proj_in"),
        ("lora_te1_text_model_encoder_layers_11_self_attn_k_proj", "encoder.layers.11.self_attn.k_proj"),
        ("lora_te_text_model_encoder_layers_11_mlp_fc2", "encoder.layers.11.mlp.fc2"),
        ("lora_te2_text_model_encoder_layers_31_mlp_fc1", "text_model.encoder.layers.31.mlp.fc1"),
        ("lora_te2_text_projection", "text_projection"),
    ],
)
def test_names_of_sdxl_are_found(kohya: str, expected: str) -> None:
    [layer] = by_layer([f"{kohya}.lora_down.weight"])
    assert _names()[layer.part][plain(layer.name)] == expected


def test_every_layer_in_a_block_has_a_name_in_the_original_checkpoint() -> None:
    starts = ("input_blocks", "middle_block", "output_blocks", "time_embed_", "label_emb", "out_2")
    names = _names()["unet"]
    original = [own for spelling, own in names.items() if spelling.startswith(starts) and "to_out" not in spelling]
    assert sorted(original) == sorted({own for own in names.values() if "to_out" not in own})
    # 70 transformer blocks of 10 layers, 11 × proj_in and proj_out, and 72 layers around them.
    assert len(set(names.values())) == 794


def test_other_layers_are_not_found() -> None:
    assert plain("mid_block.resnets.0.norm1") not in _names()["unet"]
    assert plain("embeddings.token_embedding") not in _names()["text_encoder"]
