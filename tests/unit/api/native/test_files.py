"""Stored files over HTTP: conditional requests, parts, and HEAD."""

from __future__ import annotations

import httpx2
import pytest

from atelier.core.errors import StoreUnavailable
from atelier.stores.blobs import BlobStore
from tests.pictures import encoded, noise

_DATA = encoded(noise(8, 8))


@pytest.fixture
async def path(blobs: BlobStore) -> str:
    return f"/v1/images/files/{await blobs.put(_DATA, 'png')}"


async def test_head_has_the_headers_of_get(http: httpx2.AsyncClient, path: str) -> None:
    head, get = await http.head(path), await http.get(path)
    assert head.status_code == get.status_code == 200
    assert get.content == _DATA
    for name in ("content-length", "content-type", "etag", "cache-control", "accept-ranges"):
        assert head.headers[name] == get.headers[name]
    assert (await http.head("/v1/images/files/nothing.png")).status_code == 404


async def test_a_file_that_the_client_has_is_not_sent_again(http: httpx2.AsyncClient, path: str) -> None:
    first = await http.get(path)
    assert "immutable" in first.headers["cache-control"]
    again = await http.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = await http.get(path, headers={"if-none-match": '"another"'})
    assert (other.status_code, other.content) == (200, _DATA)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=5-5", 5, 6),
        ("bytes=10-", 10, len(_DATA)),
        ("bytes=-7", len(_DATA) - 7, len(_DATA)),
        (f"bytes=10-{len(_DATA) + 5}", 10, len(_DATA)),
        (f"bytes=-{len(_DATA) + 5}", 0, len(_DATA)),
    ],
)
async def test_a_part_of_a_file_can_be_fetched(
    http: httpx2.AsyncClient, path: str, asked: str, start: int, stop: int
) -> None:
    answer = await http.get(path, headers={"range": asked})
    assert (answer.status_code, answer.content) == (206, _DATA[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(_DATA)}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", [f"bytes={len(_DATA)}-", "bytes=9-5", "bytes=-0", "bytes=-"])
async def test_a_part_beyond_the_file_is_refused(http: httpx2.AsyncClient, path: str, asked: str) -> None:
    answer = await http.get(path, headers={"range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(_DATA)}")


@pytest.mark.parametrize(
    "headers",
    [{"range": "bytes=0-1,4-5"}, {"range": f"bytes={'9' * 5000}-"}, {"range": "bytes=0-9", "if-range": '"other"'}],
)
async def test_other_ranges_are_answered_with_the_whole_file(
    http: httpx2.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await http.get(path, headers=headers)
    assert (answer.status_code, answer.content) == (200, _DATA)


async def test_a_file_is_asked_for_again_later_if_the_store_cannot_be_reached(
    http: httpx2.AsyncClient, blobs: BlobStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(_: str) -> bytes:
        raise StoreUnavailable

    monkeypatch.setattr(blobs, "get", unreachable)
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "store_unavailable"
    assert "x-should-retry" not in answer.headers
