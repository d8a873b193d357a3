from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.errors import ModelUnavailable
from atelier.models.loading import Placement, load_text_encoder_modules, load_unet, load_vae
from tests.small_models import CPU


def _elsewhere(catalogue: Catalogue, files: Files) -> ModelEntry:
    return catalogue.model(None).model_copy(update={"files": files})


def test_a_missing_folder_says_what_to_do(small_catalogue: Catalogue, tmp_path: Path) -> None:
    entry = _elsewhere(small_catalogue, Files(folder=tmp_path / "nowhere"))
    with pytest.raises(ModelUnavailable, match=r"nowhere does not exist.*make zoo"):
        load_unet(entry, CPU)


def test_missing_weights_say_what_to_do(small_catalogue: Catalogue, tmp_path: Path) -> None:
    source = small_catalogue.model(None).files.folder
    assert source is not None
    shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    entry = _elsewhere(small_catalogue, Files(folder=tmp_path / "model"))
    for load in (load_unet, load_vae, load_text_encoder_modules):
        with pytest.raises(ModelUnavailable, match="holds a diffusers model in safetensors"):
            load(entry, CPU)


def test_an_unreachable_hub_says_what_to_do(small_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    entry = _elsewhere(small_catalogue, Files(repository="nobody/nothing"))
    for load in (load_unet, load_vae, load_text_encoder_modules):
        with pytest.raises(ModelUnavailable, match="hf download nobody/nothing"):
            load(entry, CPU)


@pytest.mark.parametrize(
    ("load", "part", "name"),
    [
        (load_unet, "unet", "diffusion_pytorch_model"),
        (load_vae, "vae", "diffusion_pytorch_model"),
        (load_text_encoder_modules, "text_encoder", "model"),
        (load_text_encoder_modules, "text_encoder_2", "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_pickled_checkpoint_is_refused(
    small_catalogue: Catalogue,
    tmp_path: Path,
    load: Callable[[ModelEntry, Placement], object],
    part: str,
    name: str,
) -> None:
    """A valid pickle of the very weights, which would load if pickles were read."""
    source = small_catalogue.model(None).files.folder
    assert source is not None
    shutil.copytree(source, tmp_path / "model")
    load(_elsewhere(small_catalogue, Files(folder=tmp_path / "model")), CPU)
    weights = tmp_path / "model" / part / f"{name}.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin" if name == "model" else f"{name}.bin"))
    weights.unlink()
    with pytest.raises(ModelUnavailable):
        load(_elsewhere(small_catalogue, Files(folder=tmp_path / "model")), CPU)
