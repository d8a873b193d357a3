"""Blobs in a folder."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest

from atelier.core.errors import StoreUnavailable
from atelier.stores.blobs import BlobStore

_HOUR = timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def store(folder: Path) -> BlobStore:
    return BlobStore(folder.as_uri(), ttl=_HOUR)


def _age(file: Path, minutes: int) -> None:
    """Move a file's modification time back by `minutes`."""
    modified_s = file.stat().st_mtime - 60 * minutes
    os.utime(file, (modified_s, modified_s))


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_a_blob_is_named_by_its_content(store: BlobStore, folder: Path) -> None:
    name = await store.put(b"picture", "png")
    assert name == f"{hashlib.sha256(b'picture').hexdigest()}.png"
    assert await store.get(name) == b"picture"
    assert await store.put(b"picture", "png") == name
    assert _names(folder) == [name]


async def test_storing_content_again_renews_its_time_to_live(store: BlobStore, folder: Path) -> None:
    name = await store.put(b"picture", "png")
    _age(folder / name, minutes=59)
    await store.put(b"picture", "png")
    _age(folder / name, minutes=30)
    assert await store.get(name) == b"picture"


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp"])
async def test_files_of_every_format_are_stored(store: BlobStore, suffix: str) -> None:
    assert await store.get(await store.put(b"picture", suffix)) == b"picture"


async def test_two_stores_at_one_place_share_their_blobs(folder: Path) -> None:
    name = await BlobStore(folder.as_uri(), ttl=_HOUR).put(b"picture", "webp")
    assert await BlobStore(folder.as_uri(), ttl=_HOUR).get(name) == b"picture"


async def test_an_expired_blob_is_not_returned(store: BlobStore, folder: Path) -> None:
    old, new = await store.put(b"old", "png"), await store.put(b"new", "png")
    _age(folder / old, minutes=61)
    _age(folder / new, minutes=59)
    assert await store.get(old) is None
    assert await store.get(new) == b"new"
    assert await store.put(b"old", "png") == old
    assert await store.get(old) == b"old"


async def test_expired_blobs_are_swept_from_a_folder(
    store: BlobStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = []

    async def sweep(of: Path, ttl: timedelta) -> None:
        swept.append((of, ttl))

    monkeypatch.setattr("atelier.stores.blobs.sweep", sweep)
    await store.sweep()
    assert swept == [(folder, _HOUR)]


async def test_names_that_are_not_ours_are_never_looked_up(store: BlobStore, tmp_path: Path, folder: Path) -> None:
    digest = "a" * 64
    (tmp_path / "secret.png").write_bytes(b"secret")
    for name in ("secret.png", f"{digest}.exe", f"{digest.upper()}.png", f"{digest}.png.png", digest):
        (folder / name).write_bytes(b"secret")
    for name in ("../secret.png", "", f"{digest}.png", *_names(folder)):
        assert await store.get(name) is None


async def test_what_a_check_stores_is_no_blob(store: BlobStore, folder: Path) -> None:
    await store.check()
    assert [await store.get(name) for name in _names(folder)] == [None]


@pytest.fixture
def broken_store(store: BlobStore, folder: Path) -> BlobStore:
    """A store whose folder has become a file."""
    folder.rmdir()
    folder.write_bytes(b"")
    return store


async def test_a_broken_store_is_unavailable(broken_store: BlobStore, folder: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await broken_store.put(b"picture", "png")
    with pytest.raises(RuntimeError, match=f"^ATELIER_BLOBS_URL = '{folder.as_uri()}' cannot be used: .*directory"):
        await broken_store.check()
