"""The examples on the page about models are what the server reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

from atelier.catalogue.catalogue import DEFAULT_CATALOGUE, read_catalogue
from atelier.catalogue.checkpoint_files import read_checkpoint
from atelier.catalogue.entries import SDXL_REPOSITORY
from tests.checkpoint_files import write_checkpoint

_PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text()


def _example(language: str, begin: str) -> str:
    [text] = [one for one in re.findall(rf"```{language}\n(.*?)```", _PAGE, re.DOTALL) if one.startswith(begin)]
    return str(text)


def test_the_entry_of_a_fine_tune_is_read(tmp_path: Path) -> None:
    (tmp_path / "catalogue.yaml").write_text(_example("yaml", "models:"))
    [entry] = read_catalogue(tmp_path / "catalogue.yaml").models
    assert entry.id == "pony-v6-xl"
    assert entry.files.file == tmp_path / "checkpoints" / "ponyDiffusionV6XL.safetensors"
    assert entry.files.configs.repository == SDXL_REPOSITORY


def test_every_field_beside_a_checkpoint_is_read(tmp_path: Path) -> None:
    example = json.loads(_example("json", "{"))
    file = write_checkpoint(tmp_path, "pony", beside=example)
    base = read_catalogue(DEFAULT_CATALOGUE).model(SDXL_REPOSITORY)
    entry = read_checkpoint(file, [file.with_suffix(".json")], base)
    assert (entry.description, entry.owned_by, entry.licence) == (
        example["description"],
        example["author"],
        example["licence"],
    )
    assert (str(entry.defaults.size), entry.defaults.negative_prompt) == ("832x1216", "blurry")
    assert (entry.sides_px.min, entry.sides_px.max) == (512, 1536)
    assert (entry.prediction_type, entry.zero_terminal_snr) == ("epsilon", False)
    assert entry.files.configs.folder == tmp_path / "configs"
