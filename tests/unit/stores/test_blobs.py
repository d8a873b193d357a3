from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

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


async def test_a_blob_is_named_by_its_content(store: BlobStore) -> None:
    name = await store.put(b"picture", "png")
    assert name == f"{hashlib.sha256(b'picture').hexdigest()}.png"
    assert await store.get(name) == b"picture"
    assert await store.put(b"picture", "png") == name


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


async def test_a_store_makes_its_folder(tmp_path: Path) -> None:
    store = BlobStore((tmp_path / "a" / "b c").as_uri(), ttl=_HOUR)
    name = await store.put(b"picture", "png")
    assert (tmp_path / "a" / "b c" / name).read_bytes() == b"picture"
    assert (tmp_path / "a" / "b c").stat().st_mode & 0o777 == 0o700


async def test_an_expired_blob_is_gone_for_readers_and_then_from_the_store(store: BlobStore, folder: Path) -> None:
    old, new = await store.put(b"old", "png"), await store.put(b"new", "png")
    _age(folder / old, minutes=61)
    _age(folder / new, minutes=59)
    assert await store.get(old) is None
    assert await store.get(new) == b"new"
    assert await store.delete_expired() == 1
    assert _names(folder) == [new]


async def test_a_store_without_expired_blobs_deletes_nothing(store: BlobStore, folder: Path) -> None:
    assert await store.delete_expired() == 0
    name = await store.put(b"new", "png")
    assert await store.delete_expired() == 0
    assert _names(folder) == [name]


async def test_storing_a_blob_again_renews_its_time_to_live(store: BlobStore, folder: Path) -> None:
    name = await store.put(b"picture", "png")
    _age(folder / name, minutes=61)
    assert await store.put(b"picture", "png") == name
    assert await store.delete_expired() == 0
    assert await store.get(name) == b"picture"


async def test_files_of_others_are_not_deleted(store: BlobStore, folder: Path) -> None:
    digest = "0" * 64
    others = ["notes.txt", f"{digest[1:]}.png", f"{digest}.exe", f"{digest}.png.bak", f"x{digest}.png"]
    files = [folder / name for name in others] + [folder / "below" / f"{digest}.png"]
    (folder / "below").mkdir(parents=True)
    for file in files:
        file.write_bytes(b"mine")
        _age(file, minutes=1000)
    assert await store.delete_expired() == 0
    assert all(file.exists() for file in files)


async def test_names_that_are_not_ours_are_never_looked_up(store: BlobStore, tmp_path: Path, folder: Path) -> None:
    digest = "a" * 64
    (tmp_path / "secret.png").write_bytes(b"secret")
    for name in ("secret.png", f"{digest}.exe", f"{digest.upper()}.png", f"{digest}.png.png", digest):
        (folder / name).write_bytes(b"secret")
    for name in ("../secret.png", "", f"{digest}.png", *_names(folder)):
        assert await store.get(name) is None


class _FlakyStore(BlobStore):
    """A store that cannot be reached at the first sweep."""

    num_sweeps = 0

    async def delete_expired(self) -> int:
        self.num_sweeps += 1
        if self.num_sweeps == 1:
            raise GenericError("unreachable")
        return await super().delete_expired()


async def test_expired_blobs_are_swept_four_times_per_time_to_live_in_spite_of_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slept_s: list[float] = []

    async def sleep(seconds: float) -> None:
        slept_s.append(seconds)
        if len(slept_s) == 3:
            raise asyncio.CancelledError

    store = _FlakyStore(folder.as_uri(), ttl=_HOUR)
    name = await store.put(b"old", "png")
    _age(folder / name, minutes=61)
    monkeypatch.setattr("atelier.stores.blobs.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await store.sweep()
    assert slept_s == [900, 900, 900]
    assert not (folder / name).exists()
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "cannot delete expired blobs; will try again"
    ]
