from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.catalogue.library import ModelLibrary
from atelier.catalogue.loras import LoraLibrary
from atelier.catalogue.watched_folder import RefusedFile
from atelier.core.errors import ModelNotFound
from tests.engines import Clock
from tests.lora_files import write_lora


@pytest.fixture(scope="module")
def tiny() -> ModelEntry:
    return read_catalogue().model("tiny-sdxl")


def _read(file: Path, tiny: ModelEntry) -> Iterable[ModelEntry | RefusedFile]:
    """A model for each line of a file; lines that begin with ! are refused."""
    for line in file.read_text().split():
        if line.startswith("!"):
            yield RefusedFile(f"{line[1:]}.safetensors", "it is broken")
        else:
            yield tiny.model_copy(update={"id": line, "aliases": (), "files": Files(folder=Path("/x") / line)})


class _Found:
    """A library with one model of the config, and those that a file lists."""

    def __init__(self, folder: Path, tiny: ModelEntry) -> None:
        self.file, self.clock = folder / "ids", Clock()
        self.file.write_text("")
        self.reader = partial(_read, self.file, tiny)
        self.library = ModelLibrary([tiny], [self.reader], now_s=self.clock)

    @property
    def ids(self) -> list[str]:
        return list(self.library.look().by_id)


@pytest.fixture
def found(tmp_path: Path, tiny: ModelEntry) -> _Found:
    return _Found(tmp_path, tiny)


def test_models_come_and_go_within_a_second(found: _Found) -> None:
    assert found.ids == ["tiny-sdxl"]
    found.file.write_text("pony noob")
    found.clock.now_s = 0.99
    assert found.ids == ["tiny-sdxl"]
    found.clock.now_s = 1
    assert found.ids == ["tiny-sdxl", "pony", "noob"]
    found.file.write_text("noob")
    found.clock.now_s = 2
    assert found.ids == ["tiny-sdxl", "noob"]
    with pytest.raises(ModelNotFound, match=r"Unknown model 'pony'\. Known models: tiny-sdxl, noob\."):
        found.library.get("pony")


def test_a_model_that_is_not_known_yet_is_looked_for_at_once(found: _Found) -> None:
    """A Denoiser may have looked just before the file came that a Router has seen."""
    found.library.look()
    found.file.write_text("pony")
    found.clock.now_s = 0.05
    assert found.library.get("pony").id == "pony"


def test_unknown_ids_do_not_keep_the_disk_busy(found: _Found) -> None:
    found.library.look()
    found.file.write_text("pony")
    found.clock.now_s = 0.04
    with pytest.raises(ModelNotFound):
        found.library.get("pony")


def test_ids_and_aliases_of_the_config_are_never_taken(found: _Found, tiny: ModelEntry) -> None:
    found.file.write_text("dall-e-3 tiny-sdxl pony pony")
    models = found.library.look()
    assert list(models.by_id) == ["tiny-sdxl", "pony"]
    assert models.by_id["tiny-sdxl"] is tiny
    assert models.refused == (
        ("dall-e-3", "the id 'dall-e-3' is taken by the catalogue"),
        ("tiny-sdxl", "the id 'tiny-sdxl' is taken by the catalogue"),
        ("pony", "the id 'pony' is taken by another model"),
    )


def test_an_unknown_id_is_answered_with_the_reason_and_some_known_ids(found: _Found) -> None:
    found.file.write_text("!broken " + " ".join(f"m{index}" for index in range(30)))
    with pytest.raises(ModelNotFound) as caught:
        found.library.get("broken")
    assert str(caught.value) == (
        "Unknown model 'broken'. broken.safetensors: it is broken. Known models: tiny-sdxl, "
        + ", ".join(f"m{index}" for index in range(19))
        + "; GET /v1/models lists all."
    )
    assert caught.value.param == "model"


def test_a_refused_file_is_logged_once(found: _Found, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "atelier.catalogue.library"):
        for now_s, text in enumerate(("!a", "!a pony", "!a !b")):
            found.clock.now_s = now_s
            found.file.write_text(text)
            found.library.look()
    assert caplog.messages == [
        "the model file 'a.safetensors' is not served: it is broken",
        "the model file 'b.safetensors' is not served: it is broken",
    ]


def test_a_pickled_library_looks_where_it_arrives(found: _Found) -> None:
    assert found.ids == ["tiny-sdxl"]
    sent = pickle.dumps(found.library)
    found.file.write_text("pony")
    assert list(pickle.loads(sent).look().by_id) == ["tiny-sdxl", "pony"]


@pytest.fixture
def catalogue(found: _Found) -> Catalogue:
    return read_catalogue().only(["tiny-sdxl"], model_readers=[found.reader])


def test_a_catalogue_finds_models_besides_its_entries(found: _Found, catalogue: Catalogue) -> None:
    found.file.write_text("pony")
    assert catalogue.model("pony").files.folder == Path("/x/pony")
    assert [entry.id for entry in catalogue.models] == ["tiny-sdxl"]
    assert [entry.id for entry in catalogue.all_models()] == ["tiny-sdxl", "pony"]
    assert catalogue.model(None).id == catalogue.model("dall-e-3").id == "tiny-sdxl"
    with pytest.raises(ModelNotFound, match="Known models: tiny-sdxl, pony"):
        catalogue.model("nope")
    assert pickle.loads(pickle.dumps(catalogue)).model("pony").id == "pony"


def test_a_lora_may_belong_to_a_model_that_was_found(found: _Found, tmp_path: Path) -> None:
    write_lora(tmp_path / "loras", "glow", base="pony")
    loras = LoraLibrary((), found.library, [tmp_path / "loras"], now_s=found.clock)
    assert loras.look().refused == (("glow.safetensors", "its base model 'pony' is not served"),)
    found.file.write_text("pony")
    found.clock.now_s = 1
    assert loras.get("glow").goes_with(found.library.get("pony"))
    found.file.write_text("")
    found.clock.now_s = 2
    assert loras.look().by_id == {}


def test_a_catalogues_loras_go_with_the_models_that_were_found(found: _Found, tmp_path: Path) -> None:
    found.file.write_text("pony")
    write_lora(tmp_path / "loras", "glow", base="pony")
    folders = [tmp_path / "loras"]
    catalogue = read_catalogue().only(["tiny-sdxl"], model_readers=[found.reader], lora_folders=folders)
    assert pickle.loads(pickle.dumps(catalogue)).loras.get("glow").base == "pony"
