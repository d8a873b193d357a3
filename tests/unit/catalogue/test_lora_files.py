from __future__ import annotations

import json
from pathlib import Path

import pytest

from atelier.catalogue.header import Refused
from atelier.catalogue.lora_files import read_lora
from tests.lora_files import write_lora


def _json(folder: Path, content: object) -> Path:
    file = folder / "neon.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_file_that_says_nothing_of_itself_has_defaults(tmp_path: Path) -> None:
    file = write_lora(tmp_path, "neon")
    entry, preview = read_lora(file, None)
    assert (entry.id, entry.file, entry.base, entry.weight) == ("neon", file, None, 1.0)
    assert (entry.title, entry.description, entry.author, entry.licence) == (None, "", None, "unknown")
    assert (entry.trigger_words, entry.tags, entry.rank, entry.preview, preview) == ((), (), None, None, None)


def test_kohyas_metadata_describe_a_file(tmp_path: Path) -> None:
    frequency = {"10_neon": {"glow": 3, "dark ": 7, " ": 9}, "5_more": {"glow": 5, "rare": 1}}
    metadata = {
        "ss_output_name": "Neon XL",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_dim": "16",
        "ss_tag_frequency": json.dumps(frequency),
    }
    entry = read_lora(write_lora(tmp_path, "neon", metadata=metadata), None).entry
    assert (entry.title, entry.rank, entry.tags) == ("Neon XL", 16, ("glow", "dark", "rare"))


def test_modelspec_goes_before_kohyas_metadata(tmp_path: Path) -> None:
    metadata = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": "Neon",
        "modelspec.description": "Glowing outlines.",
        "modelspec.author": "me",
        "modelspec.license": "MIT",
        "modelspec.tags": "style, neon,",
        "modelspec.trigger_phrase": "neon style, glow",
        "ss_output_name": "other",
        "ss_tag_frequency": '{"a": {"other": 1}}',
    }
    entry = read_lora(write_lora(tmp_path, "neon", metadata=metadata), None).entry
    assert (entry.title, entry.description, entry.author, entry.licence) == ("Neon", "Glowing outlines.", "me", "MIT")
    assert (entry.tags, entry.trigger_words) == (("style", "neon"), ("neon style", "glow"))


def test_the_json_beside_a_file_goes_first(tmp_path: Path) -> None:
    metadata = {"modelspec.title": "Neon", "modelspec.description": "old", "ss_base_model_version": "sd_v1"}
    content = {
        "description": "new",
        "licence": "Apache-2.0",
        "base": "tiny-sdxl",
        "weight": 0.7,
        "trigger_words": ["neon style"],
        "tags": [],
        "preview": "shown.webp",
        "something else": {"of": "another program"},
    }
    entry, preview = read_lora(write_lora(tmp_path, "neon", metadata=metadata), _json(tmp_path, content))
    assert (entry.title, entry.description, entry.licence, entry.base) == ("Neon", "new", "Apache-2.0", "tiny-sdxl")
    assert (entry.weight, entry.trigger_words, entry.tags, preview) == (0.7, ("neon style",), (), "shown.webp")


@pytest.mark.parametrize(("preferred", "weight"), [(0.6, 0.6), (0, 1)])
def test_automatic1111s_json_is_read(tmp_path: Path, preferred: float, weight: float) -> None:
    content = {
        "description": "d",
        "sd version": "SDXL",
        "activation text": "neon style, glow",
        "preferred weight": preferred,
        "notes": "",
    }
    entry = read_lora(write_lora(tmp_path, "neon"), _json(tmp_path, content)).entry
    assert (entry.description, entry.trigger_words, entry.weight) == ("d", ("neon style", "glow"), weight)


@pytest.mark.parametrize(
    "name",
    [
        "unet.mid_block.attentions.0.to_q.lora_A.weight",
        "base_model.model.mid_block.to_q.lora_B.weight",
        "unet.mid_block.attentions.0.processor.to_q_lora.up.weight",
        "unet.mid_block.to_q.lora.down.weight",
        "lora_unet_mid_block_0.lora_down.weight",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
        "lora_unet_mid_block_0.lora_mid.weight",
        "text_encoder.layers.0.q_proj.lora_linear_layer.up.weight",
        "lora_unet_mid_block_0.hada_w1_a",
        "lora_unet_mid_block_0.lokr_w2",
    ],
)
def test_every_layout_of_loras_is_known(tmp_path: Path, name: str) -> None:
    assert read_lora(write_lora(tmp_path, "neon", names=[name, "other.alpha"]), None).entry.id == "neon"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["conv_in.weight", "lora_unet.alpha"], "no tensor in it has a name of a LoRA"),
        (["a.lora_down.weight", "a.dora_scale"], "it is a DoRA, which is not supported"),
        (["a.lora_A.weight", "a.lora_magnitude_vector"], "it is a DoRA, which is not supported"),
    ],
)
def test_other_weights_are_refused_by_their_names(tmp_path: Path, names: list[str], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read_lora(write_lora(tmp_path, "neon", names=names), None)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"ss_base_model_version": "sd_v1"}, "it was trained for sd_v1, which is not SDXL"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "it was trained for flux-1-dev/lora, which is not SDXL"),
        ({"ss_tag_frequency": "{"}, "ss_tag_frequency in its header is not valid JSON"),
        ({"ss_tag_frequency": "[]"}, "ss_tag_frequency in its header must hold numbers by tags by folders"),
        ({"ss_tag_frequency": '{"a": 1}'}, "ss_tag_frequency in its header must hold numbers by tags by folders"),
        ({"ss_tag_frequency": '{"a": {"b": "c"}}'}, "ss_tag_frequency in its header must hold numbers by tags by"),
        ({"modelspec.trigger_phrase": "<lora:other:4>"}, "trigger_words.0: "),
        ({"modelspec.trigger_phrase": "x," * 21}, "trigger_words: "),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path: Path, metadata: dict[str, str], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read_lora(write_lora(tmp_path, "neon", metadata=metadata), None)
    assert str(caught.value).startswith(reason)


def test_long_metadata_are_cut(tmp_path: Path) -> None:
    frequency = {"a": {**{f"tag {index}": 100 - index for index in range(50)}, "x" * 201: 1000}}
    metadata = {
        "ss_output_name": "n" * 5000,
        "modelspec.description": "d" * 50_000,
        "modelspec.author": "a" * 5000,
        "modelspec.license": "l" * 5000,
        "ss_network_dim": "9" * 5000,
        "ss_tag_frequency": json.dumps(frequency),
    }
    entry = read_lora(write_lora(tmp_path, "neon", metadata=metadata), None).entry
    assert entry.title is not None
    assert entry.author is not None
    assert [len(text) for text in (entry.title, entry.description, entry.author, entry.licence)] == [
        200,
        4000,
        200,
        200,
    ]
    assert entry.tags == tuple(f"tag {index}" for index in range(20))
    assert entry.rank is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "neon.json is not valid JSON"),
        ("[" * 100_000, "neon.json is not valid JSON"),
        ("[]", "neon.json is not a JSON object"),
        (" " * 2**20 + "{}", "neon.json is larger than 1048576 bytes"),
        ({"description": 5}, "neon.json: description: "),
        ({"description": "\ud800"}, "description: "),
        ({"description": "d" * 4001}, "description: "),
        ({"weight": "1"}, "neon.json: weight: "),
        ({"weight": 4.5}, "neon.json: weight: "),
        ({"weight": True}, "neon.json: weight: "),
        ('{"weight": NaN}', "neon.json: weight: "),
        ({"preferred weight": "x"}, "neon.json: weight: "),
        ({"tags": [1]}, "neon.json: tags.0: "),
        ({"tags": {"a": 1}}, "neon.json: tags: "),
        ({"tags": [""]}, "tags.0: "),
        ({"tags": ["x"] * 51}, "tags: "),
        ({"trigger_words": [["x"]]}, "neon.json: trigger_words.0: "),
        ({"trigger_words": ["<b>"]}, "trigger_words.0: "),
        ({"trigger_words": ["..."]}, "trigger_words.0: "),
        ({"trigger_words": ["x" * 201]}, "trigger_words.0: "),
        ({"base": 5}, "neon.json: base: "),
        ({"preview": "../secret.png"}, "neon.json: preview: "),
        ({"preview": "/etc/secret.png"}, "neon.json: preview: "),
        ({"preview": ".secret.png"}, "neon.json: preview: "),
        ({"preview": "a\\b.png"}, "neon.json: preview: "),
    ],
)
def test_json_that_makes_no_sense_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    file, beside = write_lora(tmp_path, "neon"), _json(tmp_path, content)
    with pytest.raises(Refused) as caught:
        read_lora(file, beside)
    assert str(caught.value).startswith(reason)
    assert len(str(caught.value)) < 300


def test_json_up_to_a_mebibyte_is_read(tmp_path: Path) -> None:
    content = '{"description": "x"}'.ljust(2**20)
    assert read_lora(write_lora(tmp_path, "neon"), _json(tmp_path, content)).entry.description == "x"


def test_json_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^neon\.json cannot be read: No such file"):
        read_lora(write_lora(tmp_path, "neon"), tmp_path / "neon.json")


@pytest.mark.parametrize("name", ["a:b", "a<b", "a>b", "a\nb", "a\\b", " a", "a ", "a\x7f", "n" * 201])
def test_a_name_that_no_tag_could_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match=r"^id: "):
        read_lora(write_lora(tmp_path, name), None)


@pytest.mark.parametrize("name", ["a", "Add Detail (XL) v1.0", "неон", "a..b", "x-1_2+3,4"])
def test_other_names_are_ids(tmp_path: Path, name: str) -> None:
    assert read_lora(write_lora(tmp_path, name), None).entry.id == name
