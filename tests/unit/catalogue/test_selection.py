from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from atelier.catalogue.installed import Installed, write_installed
from atelier.catalogue.selection import Selection
from atelier.core.errors import ModelNotFound
from tests.hub import COMMIT
from tests.lora_files import write_lora


def test_a_selection_reads_its_models_with_the_environment(tmp_path: Path) -> None:
    selection = Selection(models=("stabilityai/stable-diffusion-xl-base-1.0",), annotators=(), upscalers=())
    catalogue = selection.read({"ATELIER_MODELS_DIR": str(tmp_path)})
    [model] = catalogue.models
    assert (model.files.storage.models_dir, model.files.storage.require_weights) == (tmp_path, True)
    assert catalogue.upscalers == ()


def test_weights_are_required_unless_a_selection_says_otherwise() -> None:
    [model] = Selection(require_weights=False).read({}).models
    assert not model.files.storage.require_weights


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(ModelNotFound, match="Unknown upscaler 'x9'"):
        Selection(upscalers=("x9",)).read({})


def test_loras_are_found_in_the_folder_of_models(tmp_path: Path) -> None:
    write_lora(tmp_path / "loras", "neon")
    catalogue = Selection(loras=()).read({"ATELIER_MODELS_DIR": str(tmp_path)})
    assert list(catalogue.loras.look().by_id) == ["neon"]


def test_a_selection_may_name_another_folder_of_loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lora(tmp_path / "mine", "neon")
    for folder in (tmp_path / "mine", Path("mine")):
        monkeypatch.chdir(tmp_path)
        sent = pickle.dumps(Selection(loras_dir=folder).read({"ATELIER_MODELS_DIR": str(tmp_path)}))
        monkeypatch.chdir("/")
        assert pickle.loads(sent).loras.get("neon").file == tmp_path / "mine" / "neon.safetensors"


def test_an_unknown_lora_is_named() -> None:
    with pytest.raises(ModelNotFound, match="Unknown LoRA 'nope'"):
        Selection(loras=("nope",)).read({})


def test_downloaded_models_are_served_without_a_restart(tmp_path: Path) -> None:
    catalogue = Selection().read({"ATELIER_MODELS_DIR": str(tmp_path)})
    entry = catalogue.models[0].model_copy(update={"id": "me/small", "aliases": ()})
    installed = Installed(
        id="me/small",
        kind="model",
        repository="me/small",
        revision=COMMIT,
        licence="mit",
        num_bytes=7,
        installed_at=1.5,
        model=entry,
    )
    write_installed(tmp_path / "installed", installed)
    assert catalogue.model("me/small").files == entry.files
    assert [one.id for one in catalogue.all_models()] == ["tiny-sdxl", "me/small"]
