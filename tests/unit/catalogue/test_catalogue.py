from __future__ import annotations

from pathlib import Path

import pytest

from atelier.catalogue.catalogue import CatalogueError, read_catalogue
from atelier.core.errors import ModelNotFound
from atelier.core.geometry import Size

_MODEL = """models:
  - id: mine
    description: A model.
    owned_by: me
    created: 2026-01-02
    licence: MIT
    files: {folder: weights}
    sides_px: {min: 64, max: 128}
    defaults: {size: 96x64, num_inference_steps: 10, guidance_scale: 4}
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "catalogue.yaml"
    file.write_text(text)
    return file


def test_the_catalogue_has_the_zoo_and_sdxl() -> None:
    catalogue = read_catalogue()
    assert catalogue.model(None).id == "tiny-sdxl"
    sdxl = catalogue.model("stabilityai/stable-diffusion-xl-base-1.0")
    assert sdxl.vae is not None
    assert sdxl.vae.source == "madebyollin/sdxl-vae-fp16-fix"


def test_folders_are_beside_the_catalogue(tmp_path: Path) -> None:
    entry = read_catalogue(_write(tmp_path, _MODEL)).model("mine")
    assert entry.files.folder == tmp_path / "weights"
    assert entry.defaults.size == Size(width=96, height=64)
    assert entry.created_unix_s == 1767312000


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("guidance_scale: 4", "guidance_scale: 400", 9),
        ("{folder: weights}", "{}", 7),
        ("{folder: weights}", "{folder: a, repository: b}", 7),
        ("licence: MIT", "license: MIT", 2),
        ("size: 96x64", "size: 96x60", 2),
        ("size: 96x64", "size: big", 9),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, right: str, wrong: str, line: int) -> None:
    with pytest.raises(CatalogueError, match=rf"catalogue\.yaml:{line}: models\.0"):
        read_catalogue(_write(tmp_path, _MODEL.replace(right, wrong)))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nowhere\.yaml"):
        read_catalogue(tmp_path / "nowhere.yaml")
    with pytest.raises(CatalogueError, match="line 1"):
        read_catalogue(_write(tmp_path, "models: ["))


def test_an_unknown_model_is_answered_with_the_known() -> None:
    with pytest.raises(ModelNotFound, match="tiny-sdxl"):
        read_catalogue().only(["nope"])
