from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path

from atelier.stores.blobs import BlobStore

_HOUR = timedelta(hours=1)


async def test_a_blob_is_named_by_its_content(tmp_path: Path) -> None:
    store = BlobStore(tmp_path.as_uri(), ttl=_HOUR)
    name = await store.put(b"picture", "png")
    assert name == f"{hashlib.sha256(b'picture').hexdigest()}.png"
    assert await store.get(name) == b"picture"
    assert await store.put(b"picture", "png") == name


async def test_two_stores_at_one_place_share_their_blobs(tmp_path: Path) -> None:
    name = await BlobStore(tmp_path.as_uri(), ttl=_HOUR).put(b"picture", "webp")
    assert await BlobStore(tmp_path.as_uri(), ttl=_HOUR).get(name) == b"picture"


async def test_an_expired_blob_is_gone_for_readers_and_then_from_the_store(tmp_path: Path) -> None:
    store = BlobStore((tmp_path / "blobs").as_uri(), ttl=_HOUR)
    old, new = await store.put(b"old", "png"), await store.put(b"new", "png")
    two_hours_ago_s = (tmp_path / "blobs" / old).stat().st_mtime - 7200
    os.utime(tmp_path / "blobs" / old, (two_hours_ago_s, two_hours_ago_s))
    assert await store.get(old) is None
    assert await store.delete_expired() == 1
    assert [file.name for file in (tmp_path / "blobs").iterdir()] == [new]


async def test_names_that_are_not_ours_are_never_looked_up(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    store = BlobStore((tmp_path / "blobs").as_uri(), ttl=_HOUR)
    for name in ("../secret.png", "secret.png", "", "a" * 64, f"{'a' * 64}.png"):
        assert await store.get(name) is None
