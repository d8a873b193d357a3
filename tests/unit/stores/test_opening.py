from __future__ import annotations

from pathlib import Path

import pytest

from atelier.stores.opening import open_store, reason_of


def test_a_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    _, folder = open_store((tmp_path / "a" / "b c").as_uri())
    assert folder == tmp_path / "a" / "b c"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/a/prefix", "gs://bucket/prefix", "az://container/prefix"]
)
def test_a_bucket_has_no_folder(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    _, folder = open_store(url)
    assert folder is None


@pytest.mark.parametrize(
    "url",
    ["ftp://host/images", "memory:///", "https://host/images", "/tmp/images", "images", "", "file://host/images"],
)
def test_other_urls_are_rejected_with_those_that_are_allowed(url: str) -> None:
    with pytest.raises(ValueError, match="is not supported; set file:///folder, s3://bucket/prefix, ") as caught:
        open_store(url)
    assert str(caught.value).startswith(f"ATELIER_BLOBS_URL = {url!r} ")


def test_a_bucket_without_a_name_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^ATELIER_BLOBS_URL = 's3:///images' cannot be opened: .*s3:///images.*$"):
        open_store("s3:///images")


def test_a_bucket_that_lacks_a_setting_is_rejected_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(
        ValueError, match=r"^ATELIER_BLOBS_URL = 'az://c/p' cannot be opened: .*Account must be specified$"
    ):
        open_store("az://c/p")


def test_a_folder_that_cannot_be_made_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be opened: .*Not a directory"):
        open_store((tmp_path / "file" / "images").as_uri())


def test_a_reason_is_one_line() -> None:
    assert reason_of(OSError("it is\n  full\n\nDebug source:\nGeneric {}")) == "it is full"
    assert reason_of(TimeoutError()) == "no answer in time"
