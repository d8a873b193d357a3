from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.checkpoint_files import read_checkpoint
from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.header import Refused
from atelier.core.geometry import Size
from tests.checkpoint_files import SD_1, SDXL, write_checkpoint

_UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def base() -> ModelEntry:
    return read_catalogue().model("stabilityai/stable-diffusion-xl-base-1.0")


def _read(file: Path, base: ModelEntry) -> ModelEntry:
    beside = [one for ending in (".yaml", ".yml", ".json") if (one := file.with_suffix(ending)).exists()]
    return read_checkpoint(file, beside, base)


def test_a_checkpoint_has_the_defaults_of_sdxl(tmp_path: Path, base: ModelEntry) -> None:
    file = write_checkpoint(tmp_path, "pony v6")
    os.utime(file, (86400, 86400))
    entry = _read(file, base)
    assert (entry.id, entry.aliases, entry.vae, entry.family) == ("pony v6", (), None, "sdxl")
    assert (entry.description, entry.owned_by, entry.licence) == ("An SDXL checkpoint.", "unknown", "unknown")
    assert entry.created == datetime.date(1970, 1, 2)
    assert (entry.sides_px.min, entry.sides_px.max) == (256, 2048)
    assert entry.defaults.size == Size(width=1024, height=1024)
    assert (entry.defaults.num_inference_steps, entry.defaults.guidance_scale) == (30, 5)
    assert entry.latent_rgb == base.latent_rgb
    assert entry.files.file == file
    assert entry.files.configs == base.files.model_copy(update={"variant": None})


def test_the_header_describes_a_checkpoint(tmp_path: Path, base: ModelEntry) -> None:
    metadata = {
        "title": "Pony",
        "description": "Ponies.",
        "author": "me",
        "license": "MIT",
        "date": "2024-01-14T01",
    }
    file = write_checkpoint(tmp_path, "x", metadata={f"modelspec.{name}": one for name, one in metadata.items()})
    entry = _read(file, base)
    assert (entry.description, entry.owned_by, entry.licence) == ("Pony: Ponies.", "me", "MIT")
    assert entry.created == datetime.date(2024, 1, 14)
    assert (entry.prediction_type, entry.zero_terminal_snr) == (None, None)


def test_json_beside_a_checkpoint_overrides_the_header(tmp_path: Path, base: ModelEntry) -> None:
    defaults = {"size": "832x1216", "guidance_scale": 7, "negative_prompt": "blurry"}
    fields = {
        "description": "Mine.",
        "author": "you",
        "license": "CC0",
        "prediction_type": "v_prediction",
        "zero_terminal_snr": True,
        "sides_px": {"min": 512},
        "defaults": defaults,
        "notes": ["ignored"],
        "aliases": ["dall-e-3"],
        "id": "another",
    }
    file = write_checkpoint(tmp_path, "x", metadata={"modelspec.author": "me"}, beside=fields)
    entry = _read(file, base)
    assert (entry.id, entry.aliases) == ("x", ())
    assert (entry.description, entry.owned_by, entry.licence) == ("Mine.", "you", "CC0")
    assert (entry.prediction_type, entry.zero_terminal_snr) == ("v_prediction", True)
    assert (entry.sides_px.min, entry.sides_px.max) == (512, 2048)
    assert entry.defaults.size == Size(width=832, height=1216)
    assert (entry.defaults.num_inference_steps, entry.defaults.guidance_scale) == (30, 7)
    assert entry.defaults.negative_prompt == "blurry"


def test_yaml_beside_a_checkpoint_overrides_the_header_and_json_overrides_yaml(
    tmp_path: Path, base: ModelEntry
) -> None:
    file = write_checkpoint(tmp_path, "x", beside={"description": "of JSON"})
    file.with_suffix(".yaml").write_text("description: of YAML\nlicence: MIT\n")
    assert _read(file, base).description == "of JSON"
    assert _read(file, base).licence == "MIT"


@pytest.mark.parametrize(
    ("text", "prediction_type"),
    [
        ("model: {target: ldm.models.Diffusion, params: {parameterization: v}}", "v_prediction"),
        ("model: {params: {parameterization: eps}}", None),
        ("model: {params: {parameterization: v}}\nprediction_type: epsilon", "epsilon"),
        ("model: [params]", None),
    ],
)
def test_ldms_config_beside_a_checkpoint_says_what_it_predicts(
    tmp_path: Path, base: ModelEntry, text: str, prediction_type: str | None
) -> None:
    file = write_checkpoint(tmp_path, "x")
    file.with_suffix(".yaml").write_text(text)
    assert _read(file, base).prediction_type == prediction_type


def test_configs_may_lie_in_a_folder_beside_a_checkpoint(tmp_path: Path, base: ModelEntry) -> None:
    file = write_checkpoint(tmp_path / "models", "x", beside={"config": "configs"})
    assert _read(file, base).files.configs.folder == tmp_path / "models" / "configs"
    (tmp_path / "models" / "configs").symlink_to(tmp_path)
    with pytest.raises(Refused, match="its config configs is a link that leads out of the folder"):
        _read(file, base)


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        ({"description": 1}, "x.json: description: Input should be a valid string"),
        ({"prediction_type": "sample"}, "x.json: prediction_type: Input should be 'epsilon' or 'v_prediction'"),
        ({"zero_terminal_snr": 1}, "x.json: zero_terminal_snr: Input should be a valid boolean"),
        ({"defaults": {"steps": 3}}, "x.json: defaults.steps: Extra inputs are not permitted"),
        ({"defaults": {"num_inference_steps": 151}}, "x.json: defaults.num_inference_steps: Input should be less"),
        ({"defaults": {"size": "big"}}, "x.json: defaults.size: expected WIDTHxHEIGHT, got 'big'"),
        ({"defaults": {"size": "4096x4096"}}, "default size 4096x4096 is outside sides_px"),
        ({"sides_px": {"min": 0}}, "x.json: sides_px.min: Input should be greater than or equal to 8"),
        ({"config": "../configs"}, "x.json: config: String should match"),
        ({"config": "/etc"}, "x.json: config: String should match"),
        ({"config": "a/../../b"}, "x.json: config: String should match"),
        ({"config": ".."}, "x.json: config: String should match"),
    ],
)
def test_a_mistake_beside_a_checkpoint_is_named(
    tmp_path: Path, base: ModelEntry, beside: dict[str, object], reason: str
) -> None:
    with pytest.raises(Refused) as caught:
        _read(write_checkpoint(tmp_path, "x", beside=beside), base)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "x.yaml is not valid YAML"),
        ("- a", "x.yaml is not a YAML mapping"),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml is not valid YAML"),
        ("[" * 5000, "x.yaml is not valid YAML"),
        ("a: " + "b" * 2**16, "x.yaml is larger than 65536 bytes"),
    ],
)
def test_a_broken_yaml_is_refused(tmp_path: Path, base: ModelEntry, text: str, reason: str) -> None:
    file = write_checkpoint(tmp_path, "x")
    file.with_suffix(".yaml").write_text(text)
    with pytest.raises(Refused) as caught:
        _read(file, base)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (SD_1, "it is a Stable Diffusion 1 checkpoint, not an SDXL checkpoint"),
        ({"cond_stage_model.model.ln_final.bias": (2,)}, "it is a Stable Diffusion 2 checkpoint, not an SDXL"),
        ({"conditioner.embedders.0.model.ln_final.bias": (2,)}, "it is an SDXL refiner, not an SDXL checkpoint"),
        ({f"{_UNET}joint_blocks.0.x": (2,)}, "it is a Stable Diffusion 3 checkpoint, not an SDXL checkpoint"),
        ({f"{_UNET}double_blocks.0.x": (2,)}, "it is a Flux checkpoint, not an SDXL checkpoint"),
        ({**SDXL, "edm_mean": (4,)}, "it is a checkpoint with EDM's noise levels, such as Playground 2.5, not"),
        ({"lora_unet_mid.lora_up.weight": (2,)}, "it is a LoRA, not an SDXL checkpoint"),
        ({"control_model.x": (2,)}, "it is a ControlNet, not an SDXL checkpoint"),
        ({"down_blocks.0.resnets.0.conv1.weight": (2,)}, "it is a UNet alone, in diffusers' layout, not an SDXL"),
        ({"encoder.down.0.block.0.conv1.weight": (2,)}, "it is a VAE alone, not an SDXL checkpoint"),
        ({"x": (2,)}, "it has no UNet (no tensor is named model.diffusion_model.…)"),
        (
            {**SDXL, f"{_UNET}input_blocks.0.0.weight": (2, 9, 3, 3)},
            "its UNet reads 9 channels instead of 4, as models for inpainting do, which are not supported",
        ),
    ],
)
def test_another_architecture_is_refused_by_its_name(
    tmp_path: Path, base: ModelEntry, shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(Refused) as caught:
        _read(write_checkpoint(tmp_path, "x", shapes=shapes), base)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        ("first_stage_model.", "it has no VAE (no tensor is named first_stage_model.…)"),
        ("conditioner.embedders.0.", "it has no first text encoder (no tensor is named conditioner.embedders.0.t"),
        ("conditioner.embedders.1.", "it has no second text encoder (no tensor is named conditioner.embedders.1.m"),
        (f"{_UNET}label_emb", f"its UNet is not SDXL's: it has no {_UNET}label_emb.0.0.weight"),
        (f"{_UNET}input_blocks", "its UNet reads no channels instead of 4"),
    ],
)
def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path, base: ModelEntry, begin: str, reason: str) -> None:
    shapes = {name: shape for name, shape in SDXL.items() if not name.startswith(begin)}
    with pytest.raises(Refused) as caught:
        _read(write_checkpoint(tmp_path, "x", shapes=shapes), base)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("stem", [" x", "a\nb", "x" * 201])
def test_a_name_that_cannot_be_an_id_is_refused(tmp_path: Path, base: ModelEntry, stem: str) -> None:
    with pytest.raises(Refused, match=r"^id: String should"):
        _read(write_checkpoint(tmp_path, stem), base)
