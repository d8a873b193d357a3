"""Files that peft and diffusers write, against the changes that peft itself computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import ModelMixin, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from atelier.core.errors import AdapterInvalid
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.reading import read_adapter
from tests.unit.families.adapters.deltas import assert_equal, peft_deltas, random_tensors

Modules = dict[Part, ModelMixin]

_PLAIN = {"lora_alpha": 3}
_PATTERNS = {
    "lora_alpha": 7,
    "rank_pattern": {"mid_block.resnets.0.conv1": 2, "attn2.to_q": 6},
    "alpha_pattern": {"conv1": 5, r"up_blocks\.0\..*to_q": 9},
}


def _config(targets: list[str], **settings: object) -> LoraConfig:
    return LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **settings)


_UNET_TARGETS = ["to_q", "to_out.0", "ff.net.2", "conv1", "proj_in", "conv_in", "conv_shortcut", "time_emb_proj"]
_TEXT_TARGETS = ["q_proj", "out_proj", "fc1"]


@pytest.mark.parametrize(
    "settings", [_PLAIN, _PATTERNS, _PLAIN | {"use_rslora": True}, _PATTERNS | {"use_rslora": True}]
)
def test_save_pretrained_keeps_alpha_beside_the_file(
    tmp_path: Path, modules: Modules, settings: dict[str, object]
) -> None:
    trained = get_peft_model(modules["unet"], _config(_UNET_TARGETS, **settings))
    trained.save_pretrained(tmp_path)
    expected = peft_deltas(trained.base_model.model)
    plain = trained.unload()
    adapter = read_adapter(tmp_path / "adapter_model.safetensors", name="x", modules={"unet": plain})
    assert_equal(adapter.unet, expected)
    assert list(adapter.unet) == [name for name, _ in plain.named_modules() if name in expected]


@pytest.mark.parametrize(
    ("settings", "text_settings", "with_metadata"),
    [
        (_PLAIN, _PLAIN, True),
        (_PATTERNS | {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"mlp.fc1": 5}}, True),
        # Without metadata a reader has to take alpha for the rank.
        ({"lora_alpha": 4}, {"lora_alpha": 4}, False),
    ],
)
def test_save_lora_weights_of_all_modules(
    tmp_path: Path,
    modules: Modules,
    settings: dict[str, object],
    text_settings: dict[str, object],
    with_metadata: bool,
) -> None:
    modules["unet"].add_adapter(_config(_UNET_TARGETS, **settings))
    for part in ("text_encoder", "text_encoder_2"):
        modules[part].add_adapter(_config(_TEXT_TARGETS, **text_settings))
    metadata = _collate_lora_metadata(modules) if with_metadata else {}
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path,
        **{
            f"{part}_lora_layers": get_peft_model_state_dict(modules[part], save_embedding_layers=False)
            for part in modules
        },
        **metadata,
    )
    expected = {part: peft_deltas(modules[part]) for part in modules}
    for part in modules:
        _remove_adapter(modules[part])
    adapter = read_adapter(tmp_path / "pytorch_lora_weights.safetensors", name="x", modules=modules)
    assert_equal(adapter.unet, expected["unet"])
    assert_equal(adapter.text_encoder, expected["text_encoder"])
    assert_equal(adapter.text_encoder_2, expected["text_encoder_2"])


def test_save_lora_adapter_of_the_unet_alone(tmp_path: Path, modules: Modules) -> None:
    unet = modules["unet"]
    unet.add_adapter(_config(_UNET_TARGETS, **_PATTERNS))
    unet.save_lora_adapter(tmp_path)
    expected = peft_deltas(unet)
    _remove_adapter(unet)
    [file] = tmp_path.glob("*.safetensors")
    assert_equal(read_adapter(file, name="x", modules={"unet": unet}).unet, expected)


def test_older_names_of_attention_and_text_encoders_are_found(tmp_path: Path, modules: Modules) -> None:
    """Names before diffusers 0.22 and before transformers 5."""
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    tensors = random_tensors(
        {
            f"unet.{attention}.processor.to_q_lora.down.weight": (2, 24),
            f"unet.{attention}.processor.to_q_lora.up.weight": (24, 2),
            f"unet.{attention}.processor.to_out_lora.down.weight": (2, 24),
            f"unet.{attention}.processor.to_out_lora.up.weight": (24, 2),
            f"unet.{attention}.to_k.lora.down.weight": (2, 24),
            f"unet.{attention}.to_k.lora.up.weight": (24, 2),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight": (2, 24),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight": (24, 2),
            "text_encoder_2.text_model.encoder.layers.1.self_attn.to_out_lora.down.weight": (2, 40),
            "text_encoder_2.text_model.encoder.layers.1.self_attn.to_out_lora.up.weight": (40, 2),
        }
    )
    save_file(tensors, tmp_path / "old.safetensors")
    adapter = read_adapter(tmp_path / "old.safetensors", name="x", modules=modules)
    products = [up @ down for down, up in zip(*[iter(tensors.values())] * 2, strict=True)]
    assert_equal(
        adapter.unet,
        dict(zip([f"{attention}.to_q", f"{attention}.to_out.0", f"{attention}.to_k"], products[:3], strict=True)),
    )
    assert_equal(adapter.text_encoder, {"encoder.layers.0.self_attn.q_proj": products[3]})
    assert_equal(adapter.text_encoder_2, {"text_model.encoder.layers.1.self_attn.out_proj": products[4]})


def _saved(folder: Path, modules: Modules) -> Path:
    trained = get_peft_model(modules["unet"], _config(["conv_in"], lora_alpha=3))
    trained.save_pretrained(folder)
    trained.unload()
    return folder / "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"use_dora": True}, "'use_dora'"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base model"),
        ({"lora_alpha": "high"}, "'lora_alpha' is 'high'; it must be a finite number"),
        ({"lora_alpha": None}, "'lora_alpha' is None"),
        ({"lora_alpha": float("nan")}, "'lora_alpha' is nan"),
        ({"lora_alpha": 0}, "'lora_alpha' is 0.0; it must be"),
        ({"lora_alpha": 10**400}, "'lora_alpha' is inf"),
        ({"r": 8}, "its rank is 4, but .* says 8"),
        ({"alpha_pattern": {"[": 1}}, "'\\[' is no regular expression"),
        ({"alpha_pattern": {"(a+)+": 1}}, "'\\(a\\+\\)\\+'; allowed are 200 characters, no groups"),
        ({"rank_pattern": {".*.*.*": 1}}, "2 repetitions"),
        ({"rank_pattern": {"a" * 201: 1}}, "200 characters"),
        ({"alpha_pattern": {"a{99999999999}": 1}}, "is no regular expression"),
        ({"alpha_pattern": [1]}, "'alpha_pattern' must be an object"),
    ],
)
def test_a_config_that_means_more_than_a_plain_lora_is_refused(
    tmp_path: Path, modules: Modules, change: dict[str, object], message: str
) -> None:
    file = _saved(tmp_path, modules)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(AdapterInvalid, match=message):
        read_adapter(file, name="x", modules=modules)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "put the adapter_config.json that peft wrote into the file's folder"),
        ("{", "adapter_config.json is not valid JSON"),
        ("[" * 100_000, "adapter_config.json is not valid JSON"),
        ("[]", "adapter_config.json must be a JSON object"),
        (" " * (2**20 + 1), "adapter_config.json is larger than 1048576 bytes"),
    ],
)
def test_a_missing_or_broken_config_is_refused(
    tmp_path: Path, modules: Modules, text: str | None, message: str
) -> None:
    file = _saved(tmp_path, modules)
    config = tmp_path / "adapter_config.json"
    if text is None:
        config.unlink()
    else:
        config.write_text(text)
    with pytest.raises(AdapterInvalid, match=message):
        read_adapter(file, name="x", modules=modules)


def test_broken_metadata_is_refused(tmp_path: Path, modules: Modules) -> None:
    tensors = random_tensors(
        {"unet.conv_in.lora_A.weight": (2, 4, 3, 3), "unet.conv_in.lora_B.weight": (16, 2, 1, 1)}
    )
    save_file(tensors, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(AdapterInvalid, match="lora_adapter_metadata is not valid JSON"):
        read_adapter(tmp_path / "x.safetensors", name="x", modules=modules)


def test_a_config_in_the_folder_is_not_for_other_layouts(tmp_path: Path, modules: Modules) -> None:
    file = _saved(tmp_path, modules)
    tensors = {key.replace("base_model.model.", "unet."): tensor for key, tensor in load_file(file).items()}
    save_file(tensors, tmp_path / "other.safetensors")
    [change] = read_adapter(tmp_path / "other.safetensors", name="x", modules=modules).unet.values()
    torch.testing.assert_close(change.up, tensors["unet.conv_in.lora_B.weight"].flatten(1))


def _remove_adapter(model: torch.nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            model.set_submodule(name, module.get_base_layer())
