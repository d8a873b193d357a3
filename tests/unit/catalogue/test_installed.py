"""The registry of downloaded models: what is written is read, whole or not at all."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import pytest
import yaml

from atelier.catalogue.entries import Defaults, Files, ModelEntry, Sides
from atelier.catalogue.installed import (
    Installed,
    delete_installed,
    list_installed,
    read_installed,
    write_installed,
)
from atelier.catalogue.storage import Storage
from atelier.core.geometry import Size
from tests.hub import COMMIT


def _model(model_id: str = "me/small") -> Installed:
    entry = ModelEntry(
        id=model_id,
        description="A model.",
        owned_by="me",
        created=datetime.date(2026, 1, 2),
        licence="mit",
        files=Files(repository=model_id, revision=COMMIT, variant="fp16"),
        sides_px=Sides(min=256, max=2048),
        defaults=Defaults(size=Size(width=1024, height=1024), num_inference_steps=30, guidance_scale=5.0),
    )
    return Installed(
        id=model_id,
        kind="model",
        repository=model_id,
        revision=COMMIT,
        licence="mit",
        num_bytes=7,
        installed_at=1.5,
        model=entry,
    )


def _lora() -> Installed:
    return Installed(
        id="me--neon",
        kind="lora",
        repository="me/neon",
        revision=COMMIT,
        file="neon.safetensors",
        licence="mit",
        num_bytes=3,
        installed_at=2.5,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    for one in (_model(), _lora()):
        write_installed(folder, one)
    assert list_installed(folder) == (_lora(), _model())
    assert read_installed(folder) == (_model().model,)


def test_a_model_is_written_as_in_a_catalogue(tmp_path: Path) -> None:
    write_installed(tmp_path, _model())
    assert yaml.safe_load((tmp_path / "me--small.yaml").read_text())["model"] == {
        "id": "me/small",
        "aliases": [],
        "family": "sdxl",
        "description": "A model.",
        "owned_by": "me",
        "created": "2026-01-02",
        "licence": "mit",
        "files": {"repository": "me/small", "revision": COMMIT, "variant": "fp16"},
        "sides_px": {"min": 256, "max": 2048},
        "defaults": {"size": "1024x1024", "num_inference_steps": 30, "guidance_scale": 5.0},
    }


def test_entries_remember_the_storage(tmp_path: Path) -> None:
    write_installed(tmp_path, _model())
    storage = Storage(models_dir=tmp_path, require_weights=True)
    [model] = read_installed(tmp_path, storage)
    assert model.files.storage == storage


def test_a_folder_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert list_installed(tmp_path / "none") == ()


@pytest.mark.parametrize("text", ["{", "id: x", "- 1", "\x00", "id: &a [*a]"])
def test_a_broken_entry_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    write_installed(tmp_path, _model())
    (tmp_path / "broken.yaml").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert list_installed(tmp_path) == (_model(),)
    assert "broken.yaml" in caplog.text


def test_an_entry_that_is_being_written_is_not_seen(tmp_path: Path) -> None:
    write_installed(tmp_path, _model())
    (tmp_path / ".half.yaml").write_text((tmp_path / "me--small.yaml").read_text())
    assert list_installed(tmp_path) == (_model(),)


def test_a_failed_write_leaves_the_entry_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_installed(tmp_path, _model())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_installed(tmp_path, _model().model_copy(update={"num_bytes": 8}))
    assert list_installed(tmp_path) == (_model(),)
    assert [file.name for file in tmp_path.iterdir()] == ["me--small.yaml"]


def test_an_entry_is_deleted_and_deleting_it_again_changes_nothing(tmp_path: Path) -> None:
    for one in (_model(), _lora()):
        write_installed(tmp_path, one)
    for _ in range(2):
        delete_installed(tmp_path, _model())
    assert list_installed(tmp_path) == (_lora(),)
