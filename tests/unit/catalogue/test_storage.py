from __future__ import annotations

from pathlib import Path

import pytest

from atelier.catalogue.storage import Storage


def test_models_are_in_one_folder(tmp_path: Path) -> None:
    storage = Storage.from_environment({"ATELIER_MODELS_DIR": str(tmp_path)}, require_weights=False)
    assert storage.hub_cache == tmp_path / "hub"
    assert storage.loras_dir == tmp_path / "loras"
    assert storage.upscaler_file("x4") == tmp_path / "upscalers" / "x4.safetensors"


@pytest.mark.parametrize("environment", [{}, {"ATELIER_MODELS_DIR": ""}])
def test_without_the_variable_the_hub_chooses_its_cache(environment: dict[str, str]) -> None:
    storage = Storage.from_environment(environment, require_weights=True)
    assert (storage.models_dir, storage.hub_cache, storage.require_weights) == (None, None, True)
    assert storage.loras_dir == Path.home() / ".cache" / "atelier" / "loras"


def test_a_relative_folder_or_one_in_the_home_is_the_same_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value, folder in (("models", tmp_path / "models"), ("~/models", Path.home() / "models")):
        storage = Storage.from_environment({"ATELIER_MODELS_DIR": value}, require_weights=False)
        assert storage.models_dir == folder
