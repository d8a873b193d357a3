"""What is removed: the entry, the files that only it needs, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier.catalogue.storage import Storage
from atelier.core.errors import NotFound
from atelier.core.params import DownloadParams, parse
from atelier.hub.hub import Hub
from tests.hub import COMMIT
from tests.hub import Hub as Server

_MODEL = {"repository": "me/tiny-sdxl", "accept_licence": "apache-2.0"}
_LORA = {"repository": "me/neon", "accept_licence": "neon-licence"}


async def _download(own_hub: Hub, *all_fields: dict[str, str]) -> None:
    for fields in all_fields:
        await own_hub.download(parse(DownloadParams, fields), lambda _: None)


def _weights(storage: Storage) -> list[Path]:
    assert storage.models_dir is not None
    return sorted(file for file in storage.models_dir.rglob("*.safetensors"))


async def test_a_removed_model_and_its_files_are_gone(own_hub: Hub, storage: Storage) -> None:
    await _download(own_hub, _MODEL, _LORA)
    lora = [file for file in _weights(storage) if "neon" in file.name]
    await own_hub.remove("me/tiny-sdxl")
    assert [one.id for one in await own_hub.installed()] == ["me--neon"]
    assert _weights(storage) == lora
    assert storage.models_dir is not None
    assert not (storage.models_dir / "hub/models--me--tiny-sdxl").exists()


async def test_another_repository_with_the_same_commit_keeps_its_files(own_hub: Hub, storage: Storage) -> None:
    await _download(own_hub, _MODEL, _LORA)
    await own_hub.remove("me--neon")
    assert storage.models_dir is not None
    assert [folder.name for folder in (storage.models_dir / "hub").glob("models--*")] == ["models--me--tiny-sdxl"]


async def test_a_removed_lora_is_no_longer_in_the_watched_folder(own_hub: Hub, storage: Storage) -> None:
    await _download(own_hub, _LORA)
    await own_hub.remove("me--neon")
    assert list(storage.loras_dir.iterdir()) == []
    assert _weights(storage) == []


async def test_files_that_another_entry_needs_stay(own_hub: Hub, storage: Storage) -> None:
    both = {"repository": "me/styles", "accept_licence": "unknown"}
    await _download(own_hub, {**both, "file": "tiny-neon.safetensors"}, {**both, "file": "tiny-outline.safetensors"})
    await own_hub.remove("me--styles--tiny-neon")
    outline = storage.loras_dir / "me--styles--tiny-outline.safetensors"
    assert outline.stat().st_nlink == 2
    await own_hub.remove("me--styles--tiny-outline")
    assert _weights(storage) == []


@pytest.mark.parametrize("revision", [COMMIT, None])
async def test_files_that_the_catalogue_names_stay(server: Server, storage: Storage, revision: str | None) -> None:
    in_use = {("me/tiny-sdxl", revision)}
    own_hub = Hub(storage, storage.loras_dir, endpoint=server.address, in_use=in_use)
    await _download(own_hub, _MODEL)
    before = _weights(storage)
    await own_hub.remove("me/tiny-sdxl")
    assert await own_hub.installed() == ()
    assert _weights(storage) == before


async def test_an_entry_whose_files_are_gone_is_removed(own_hub: Hub, storage: Storage) -> None:
    await _download(own_hub, _LORA)
    assert storage.models_dir is not None
    for file in sorted((storage.models_dir / "hub").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    (storage.models_dir / "hub").rmdir()
    await own_hub.remove("me--neon")
    assert await own_hub.installed() == ()


async def test_what_is_not_installed_is_refused_with_what_is(own_hub: Hub) -> None:
    await _download(own_hub, _LORA)
    for unknown in ("me/neon", "../me--neon", ""):
        with pytest.raises(NotFound, match="Installed: me--neon"):
            await own_hub.remove(unknown)
    assert len(await own_hub.installed()) == 1
