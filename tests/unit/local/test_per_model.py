from __future__ import annotations

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.errors import ModelNotFound
from atelier.local.per_model import PerModel
from atelier.models.thread import ModelThread


class _Part:
    """A part of a model, which is in memory from `bring` until `unload`."""

    def __init__(self, entry: ModelEntry) -> None:
        self.model = entry.id
        self.is_in_memory = False

    def bring(self) -> None:
        self.is_in_memory = True

    def unload(self) -> bool:
        self.is_in_memory = False
        return False


@pytest.fixture
def parts(small_catalogue: Catalogue) -> PerModel[_Part]:
    """Parts of a model that is preloaded, and of `lazy`, which is not."""
    entry = small_catalogue.model(None)
    lazy = entry.model_copy(update={"id": "lazy", "aliases": (), "preload": False})
    catalogue = Catalogue(models=(entry, lazy))
    parts = PerModel(catalogue.model, _Part, ModelThread("parts", num_threads=1))
    parts.load(catalogue.models)
    return parts


async def test_a_model_that_is_not_preloaded_is_made_once_when_it_is_needed(parts: PerModel[_Part]) -> None:
    assert parts.made.keys() == {"small-sdxl"}
    lazy = await parts.get("lazy")
    assert lazy.model == "lazy"
    assert await parts.get("lazy") is lazy


async def test_a_model_is_brought_and_unloaded(parts: PerModel[_Part]) -> None:
    await parts.bring("lazy")
    assert parts.made["lazy"].is_in_memory
    assert not await parts.unload("lazy")
    assert not parts.made["lazy"].is_in_memory


async def test_what_was_never_made_is_not_there_after_unloading(parts: PerModel[_Part]) -> None:
    assert not await parts.unload("lazy")
    assert "lazy" not in parts.made


async def test_a_model_that_nobody_has_is_not_found(parts: PerModel[_Part]) -> None:
    with pytest.raises(ModelNotFound, match="'another'"):
        await parts.get("another")
