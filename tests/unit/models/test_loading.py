from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.errors import ModelUnavailable
from atelier.models.loading import load_text_encoders, load_unet, load_vae
from tests.small_models import CPU


def _elsewhere(catalogue: Catalogue, files: Files) -> ModelEntry:
    return catalogue.model(None).model_copy(update={"files": files})


def test_a_missing_folder_says_what_to_do(catalogue: Catalogue, tmp_path: Path) -> None:
    entry = _elsewhere(catalogue, Files(folder=tmp_path / "nowhere"))
    with pytest.raises(ModelUnavailable, match=r"nowhere does not exist.*make zoo"):
        load_unet(entry, CPU)


def test_missing_weights_say_what_to_do(catalogue: Catalogue, tmp_path: Path) -> None:
    source = catalogue.model(None).files.folder
    assert source is not None
    shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    entry = _elsewhere(catalogue, Files(folder=tmp_path / "model"))
    for load in (load_unet, load_vae, load_text_encoders):
        with pytest.raises(ModelUnavailable, match="holds a diffusers model in safetensors"):
            load(entry, CPU)


def test_an_unreachable_hub_says_what_to_do(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    entry = _elsewhere(catalogue, Files(repository="nobody/nothing"))
    for load in (load_unet, load_vae, load_text_encoders):
        with pytest.raises(ModelUnavailable, match="hf download nobody/nothing"):
            load(entry, CPU)


def test_a_pickled_checkpoint_is_not_read(catalogue: Catalogue, tmp_path: Path) -> None:
    source = catalogue.model(None).files.folder
    assert source is not None
    shutil.copytree(source, tmp_path / "model")
    unet = tmp_path / "model" / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelUnavailable):
        load_unet(_elsewhere(catalogue, Files(folder=tmp_path / "model")), CPU)
