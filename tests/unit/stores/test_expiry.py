from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atelier.stores.expiry import delete_expired, is_expired, sweep
from atelier.stores.names import name_of

_HOUR = timedelta(hours=1)


def _write(folder: Path, name: str, *, minutes_ago: int) -> Path:
    """Write a file that was modified so many minutes ago."""
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"picture")
    modified_s = file.stat().st_mtime - 60 * minutes_ago
    os.utime(file, (modified_s, modified_s))
    return file


@pytest.fixture
def slept_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times that were slept; nobody waits for them, and the third is the last one."""
    times: list[float] = []

    async def sleep(seconds: float) -> None:
        times.append(seconds)
        if len(times) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr("atelier.stores.expiry.asyncio.sleep", sleep)
    return times


def test_a_blob_expires_after_its_time_to_live() -> None:
    now = datetime.now(UTC)
    assert is_expired(now - timedelta(minutes=61), _HOUR)
    assert not is_expired(now - timedelta(minutes=59), _HOUR)


def test_expired_blobs_are_deleted_and_counted(tmp_path: Path) -> None:
    old = _write(tmp_path, name_of(b"old", "png"), minutes_ago=61)
    new = _write(tmp_path, name_of(b"new", "png"), minutes_ago=59)
    assert delete_expired(tmp_path, _HOUR) == 1
    assert (old.exists(), new.exists()) == (False, True)
    assert delete_expired(tmp_path, _HOUR) == 0


def test_files_of_others_are_not_deleted(tmp_path: Path) -> None:
    digest = "0" * 64
    others = ["notes.txt", f"{digest[1:]}.png", f"{digest}.exe", f"{digest}.png.bak", f"x{digest}.png"]
    files = [_write(tmp_path, name, minutes_ago=1000) for name in [*others, f"below/{digest}.png"]]
    assert delete_expired(tmp_path, _HOUR) == 0
    assert all(file.exists() for file in files)


async def test_a_folder_is_swept_four_times_per_time_to_live_until_cancelled(
    tmp_path: Path, slept_s: list[float]
) -> None:
    old = _write(tmp_path, name_of(b"old", "png"), minutes_ago=61)
    with pytest.raises(asyncio.CancelledError):
        await sweep(tmp_path, _HOUR)
    assert slept_s == [900, 900, 900]
    assert not old.exists()


@pytest.mark.usefixtures("slept_s")
async def test_a_sweep_that_fails_is_logged_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = _write(tmp_path, name_of(b"old", "png"), minutes_ago=61)
    failures = [PermissionError("not allowed")]

    def delete_or_fail(folder: Path, ttl: timedelta) -> int:
        if failures:
            raise failures.pop()
        return delete_expired(folder, ttl)

    monkeypatch.setattr("atelier.stores.expiry.delete_expired", delete_or_fail)
    with pytest.raises(asyncio.CancelledError):
        await sweep(tmp_path, _HOUR)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"cannot delete expired blobs in {tmp_path}; will try again"]
    assert not old.exists()


@pytest.mark.usefixtures("slept_s")
async def test_a_folder_is_left_to_the_process_that_sweeps_it(tmp_path: Path) -> None:
    old = _write(tmp_path, name_of(b"old", "png"), minutes_ago=61)
    with (tmp_path / ".sweeper").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(asyncio.CancelledError):
            await sweep(tmp_path, _HOUR)
    assert old.exists()


@pytest.mark.usefixtures("slept_s")
async def test_the_next_process_sweeps_when_the_last_one_has_ended(tmp_path: Path) -> None:
    with pytest.raises(asyncio.CancelledError):
        await sweep(tmp_path, _HOUR)
    with (tmp_path / ".sweeper").open("w") as next_one:
        fcntl.flock(next_one, fcntl.LOCK_EX | fcntl.LOCK_NB)
