"""Loading: errors say what to do, and pickles are never read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry, UpscalerEntry
from atelier.catalogue.storage import Storage
from atelier.core.errors import ModelUnavailable
from atelier.models.loading import (
    Placement,
    load_controlnet,
    load_depth_estimator,
    load_preview_decoder,
    load_text_encoders,
    load_tokenizers,
    load_unet,
    load_upscaler,
    load_vae,
)
from tests.hub import COMMIT
from tests.preview_decoders import write_decoder
from tests.small_models import CPU

Load = Callable[[ModelEntry, Placement], object]

_LOADERS: tuple[Load, ...] = (load_unet, load_vae, load_text_encoders)


def _with_files(catalogue: Catalogue, files: Files) -> ModelEntry:
    return catalogue.model(None).model_copy(update={"files": files})


def _folder(files: Files) -> Path:
    assert files.folder is not None
    return files.folder


def _pickle_weights(folder: Path) -> None:
    """Replace the weights in a folder by a pickle of the same tensors, under the name that libraries look for."""
    [file] = folder.glob("*.safetensors")
    name = "pytorch_model.bin" if file.name == "model.safetensors" else "diffusion_pytorch_model.bin"
    torch.save(load_file(file), folder / name)
    file.unlink()


@pytest.mark.parametrize("load", _LOADERS)
def test_missing_folder_is_named_with_advice(small_catalogue: Catalogue, tmp_path: Path, load: Load) -> None:
    entry = _with_files(small_catalogue, Files(folder=tmp_path / "nowhere"))
    with pytest.raises(ModelUnavailable, match=r"nowhere does not exist.*make zoo"):
        load(entry, CPU)


@pytest.mark.parametrize("load", _LOADERS)
def test_missing_weights_are_explained(small_catalogue: Catalogue, tmp_path: Path, load: Load) -> None:
    source = _folder(small_catalogue.model(None).files)
    shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    entry = _with_files(small_catalogue, Files(folder=tmp_path / "model"))
    with pytest.raises(ModelUnavailable, match="holds a diffusers model in safetensors"):
        load(entry, CPU)


@pytest.mark.parametrize("load", _LOADERS)
def test_unreachable_hub_is_explained(
    small_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, load: Load
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    entry = _with_files(small_catalogue, Files(repository="nobody/nothing"))
    with pytest.raises(ModelUnavailable, match=r"cannot load nobody/nothing\. Check the network .*models\.fetch"):
        load(entry, CPU)


def _required(small_catalogue: Catalogue, models_dir: Path) -> ModelEntry:
    """An entry of the hub whose files must be in `models_dir` when it is loaded."""
    storage = Storage(models_dir=models_dir, require_weights=True)
    files = Files.model_validate({"repository": "me/model", "revision": COMMIT}, context={"storage": storage})
    return _with_files(small_catalogue, files)


@pytest.mark.parametrize("load", _LOADERS)
def test_required_files_are_not_downloaded(small_catalogue: Catalogue, tmp_path: Path, load: Load) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        load(_required(small_catalogue, tmp_path), CPU)
    assert str(caught.value) == (
        f"Model 'small-sdxl': its files are not in {tmp_path}/hub, for the repository me/model at {COMMIT}. "
        "Fetch it on this machine by `python -m atelier.models.fetch CONFIG`, with the same ATELIER_MODELS_DIR, or "
        "set `require_weights: false`."
    )


@pytest.mark.parametrize(
    ("part", "load", "name"),
    [
        ("unet", load_unet, "unet/diffusion_pytorch_model.safetensors"),
        ("vae", load_vae, "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder_2", load_text_encoders, "text_encoder_2/model.safetensors"),
        ("tokenizer", lambda entry, _: load_tokenizers(entry), "tokenizer/tokenizer_config.json"),
    ],
)
def test_missing_file_of_a_required_repository_is_named(
    small_catalogue: Catalogue, tmp_path: Path, part: str, load: Load, name: str
) -> None:
    snapshot = tmp_path / "hub" / "models--me--model" / "snapshots" / COMMIT
    shutil.copytree(_folder(small_catalogue.model(None).files), snapshot)
    entry = _required(small_catalogue, tmp_path)
    load(entry, CPU)
    shutil.rmtree(snapshot / part)
    shutil.copytree(
        _folder(small_catalogue.model(None).files) / part,
        snapshot / part,
        ignore=shutil.ignore_patterns(Path(name).name),
    )
    with pytest.raises(ModelUnavailable, match=rf"{name} is not in {tmp_path}/hub"):
        load(entry, CPU)


def test_required_upscaler_without_its_file_is_an_error(tmp_path: Path) -> None:
    fields = {"id": "x4", "description": "", "licence": "MIT"}
    for is_required in (True, False):
        storage = Storage(models_dir=tmp_path, require_weights=is_required)
        entry = UpscalerEntry.model_validate(fields, context={"storage": storage})
        if is_required:
            with pytest.raises(ModelUnavailable, match=rf"'x4': the file {entry.file} does not exist\. Convert"):
                load_upscaler(entry, CPU)
        else:
            assert load_upscaler(entry, CPU) is None


@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("unet", load_unet),
        ("vae", load_vae),
        ("text_encoder", load_text_encoders),
        ("text_encoder_2", load_text_encoders),
    ],
)
def test_pickled_part_of_a_model_is_rejected(
    small_catalogue: Catalogue, tmp_path: Path, part: str, load: Load
) -> None:
    shutil.copytree(_folder(small_catalogue.model(None).files), tmp_path / "model")
    _pickle_weights(tmp_path / "model" / part)
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load(_with_files(small_catalogue, Files(folder=tmp_path / "model")), CPU)


def test_pickled_vae_of_its_own_is_rejected(small_catalogue: Catalogue, tmp_path: Path) -> None:
    entry = small_catalogue.model(None)
    shutil.copytree(_folder(entry.files) / "vae", tmp_path / "vae")
    entry = entry.model_copy(update={"vae": Files(folder=tmp_path / "vae")})
    load_vae(entry, CPU)
    _pickle_weights(tmp_path / "vae")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_vae(entry, CPU)


def test_pickled_preview_decoder_is_rejected(tmp_path: Path) -> None:
    files = write_decoder(tmp_path / "decoder")
    assert load_preview_decoder("small-sdxl", files, CPU).config.latent_channels == 4
    _pickle_weights(_folder(files))
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_preview_decoder("small-sdxl", files, CPU)


def test_pickled_controlnet_is_rejected(small_catalogue: Catalogue, tmp_path: Path) -> None:
    entry = small_catalogue.controlnets[0]
    shutil.copytree(_folder(entry.files), tmp_path / "controlnet")
    _pickle_weights(tmp_path / "controlnet")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_controlnet(entry.model_copy(update={"files": Files(folder=tmp_path / "controlnet")}), CPU)


def test_pickled_depth_estimator_is_rejected(small_catalogue: Catalogue, tmp_path: Path) -> None:
    entry = small_catalogue.annotators[0]
    shutil.copytree(_folder(entry.files), tmp_path / "depth")
    _pickle_weights(tmp_path / "depth")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_depth_estimator(entry.model_copy(update={"files": Files(folder=tmp_path / "depth")}), CPU)
