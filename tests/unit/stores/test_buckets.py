"""Blobs in a bucket of a real S3 server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import pytest

from atelier.core.errors import StoreUnavailable
from atelier.stores.blobs import BlobStore
from tests.s3 import S3Server, s3_server

_HOUR = timedelta(hours=1)
_PAGE = Path(__file__).parents[3] / "docs" / "deploying.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("images")
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server to which the environment leads."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def _store(url: str = "s3://images/atelier", ttl: timedelta = _HOUR) -> BlobStore:
    return BlobStore(url, ttl=ttl)


@pytest.mark.usefixtures("s3")
async def test_a_blob_of_one_store_is_read_from_another() -> None:
    name = await _store().put(b"picture", "png")
    assert await _store().get(name) == b"picture"


@pytest.mark.usefixtures("s3")
async def test_stores_with_other_prefixes_do_not_share_blobs() -> None:
    name = await _store("s3://images/one").put(b"picture", "png")
    assert await _store("s3://images/two").get(name) is None


@pytest.mark.usefixtures("s3")
async def test_an_expired_blob_is_not_returned() -> None:
    name = await _store().put(b"picture", "png")
    assert await _store(ttl=timedelta(0)).get(name) is None
    assert await _store().get(name) == b"picture"


async def test_a_bucket_is_neither_listed_nor_swept(s3: S3Server) -> None:
    store = _store("s3://images/unlisted", ttl=timedelta(0))
    await store.check()
    name = await store.put(b"picture", "png")
    await store.get(name)
    await store.sweep()
    assert [(method, path) for method, path in s3.requests() if "unlisted" in path] == [
        ("PUT", "/images/unlisted/start-check"),
        ("GET", "/images/unlisted/start-check"),
        ("PUT", f"/images/unlisted/{name}"),
        ("GET", f"/images/unlisted/{name}"),
    ]


async def test_the_lifecycle_rule_of_the_page_is_accepted(s3: S3Server) -> None:
    page = _PAGE.read_text()
    written = re.search(r"```json\n(.+?)```", page, flags=re.DOTALL)
    assert written is not None
    assert "put-bucket-lifecycle-configuration" in page
    rules = json.loads(written[1])
    client = boto3.client("s3")
    client.put_bucket_lifecycle_configuration(Bucket="images", LifecycleConfiguration=rules)
    [stored] = client.get_bucket_lifecycle_configuration(Bucket="images")["Rules"]
    client.close()
    assert (stored["Status"], stored["Filter"], stored["Expiration"]) == (
        "Enabled",
        {"Prefix": "atelier/"},
        {"Days": 7},
    )
    name = await _store().put(b"picture", "png")
    assert ("PUT", f"/images/{stored['Filter']['Prefix']}{name}") in s3.requests()


@pytest.mark.usefixtures("s3")
async def test_a_missing_bucket_is_named_with_the_reason() -> None:
    with pytest.raises(
        RuntimeError, match=r"^ATELIER_BLOBS_URL = 's3://none/x' cannot be used: .*NoSuchBucket"
    ) as caught:
        await _store("s3://none/x").check()
    assert "\n" not in str(caught.value)
    assert "Debug source" not in str(caught.value)


@pytest.mark.usefixtures("s3")
async def test_a_bucket_that_is_gone_is_no_missing_blob() -> None:
    store = _store("s3://none/x")
    with pytest.raises(StoreUnavailable):
        await store.put(b"picture", "png")
    with pytest.raises(StoreUnavailable):
        await store.get(f"{'0' * 64}.png")


async def test_a_refused_key_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with s3_server(tmp_path) as server:
        server.make_bucket("images")
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)
        store = _store()
        name = await store.put(b"picture", "png")
        server.refuse_keys()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.get(name)
            with pytest.raises(StoreUnavailable):
                await store.put(b"picture", "png")
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message.startswith("the store of images at s3://images/atelier fails: ")
    assert "403" in record.message


async def test_a_store_that_works_again_is_logged(s3: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    store = _store("s3://later/x")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.put(b"picture", "png")
    s3.make_bucket("later")
    for _ in range(2):
        await store.put(b"picture", "png")
    failed, works = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert failed.startswith("the store of images at s3://later/x fails: ")
    assert works == "the store of images at s3://later/x works again"


@pytest.mark.usefixtures("s3")
async def test_a_server_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("atelier.stores.blobs.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = _store()
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.put(b"picture", "png"), 10)
        with pytest.raises(RuntimeError, match="cannot be used: no answer in time"):
            await asyncio.wait_for(store.check(), 10)
    assert "no answer in time" in caplog.text


@pytest.mark.usefixtures("s3")
async def test_a_server_that_cannot_be_reached_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("atelier.stores.opening.RETRY_TIME", timedelta(0))
    # obstore's own retries would take longer.
    monkeypatch.setattr("atelier.stores.blobs.TIMEOUT_S", 1)
    with pytest.raises(RuntimeError, match=f"cannot be used: .*http://127.0.0.1:{port}/images/atelier/start-check"):
        await _store().check()
