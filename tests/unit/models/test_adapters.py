"""LoRAs in memory: what is loaded when, and what is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from atelier.models.adapters import AdapterCache

_WAIT_S = 30


class _Disk:
    """Files whose names are their contents, and which are counted when they are read or copied."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.copied: list[str] = []

    def cache(self, *, max_resident: int = 2, max_host_bytes: int = 3) -> AdapterCache[str, str]:
        """A cache in which every LoRA takes as many bytes as its name has letters."""

        def load(name: str) -> str:
            self.read.append(name)
            return name

        def to_device(name: str) -> str:
            self.copied.append(name)
            return f"{name} on the device"

        return AdapterCache(load, to_device, num_bytes=len, max_resident=max_resident, max_host_bytes=max_host_bytes)


def test_a_lora_is_read_once_and_stays_on_the_device() -> None:
    disk = _Disk()
    cache = disk.cache()
    for _ in range(3):
        assert cache.get("a").result(_WAIT_S) == "a on the device"
    assert (disk.read, disk.copied) == (["a"], ["a"])
    assert cache.get("a").done()


def test_the_one_used_longest_ago_leaves_the_device_but_not_the_host() -> None:
    disk = _Disk()
    cache = disk.cache(max_resident=2, max_host_bytes=3)
    for name in ("a", "b", "a", "c"):
        cache.get(name).result(_WAIT_S)
    assert sorted(cache.resident()) == ["a", "c"]
    cache.get("b").result(_WAIT_S)
    assert disk.read == ["a", "b", "c"]
    assert disk.copied == ["a", "b", "c", "b"]


def test_what_the_host_has_no_room_for_is_read_again() -> None:
    disk = _Disk()
    cache = disk.cache(max_resident=1, max_host_bytes=1)
    for name in ("a", "b", "a", "wide", "wide", "a", "wide"):
        cache.get(name).result(_WAIT_S)
    assert disk.read == ["a", "b", "a", "wide", "wide"]


def test_requests_for_a_lora_that_is_being_loaded_share_it() -> None:
    go_on = threading.Event()
    cache, loads = _slow_cache(go_on)
    first, second = cache.get("slow"), cache.get("slow")
    go_on.set()
    assert first.result(_WAIT_S) is second.result(_WAIT_S)
    assert loads == ["slow"]


def test_a_slow_file_holds_up_no_other() -> None:
    go_on = threading.Event()
    cache, _ = _slow_cache(go_on)
    slow = cache.get("slow")
    assert cache.get("fast").result(_WAIT_S) == "fast"
    assert not slow.done()
    go_on.set()
    assert slow.result(_WAIT_S) == "slow"


def _slow_cache(go_on: threading.Event) -> tuple[AdapterCache[str, str], list[str]]:
    loads: list[str] = []

    def load(name: str) -> str:
        loads.append(name)
        if name == "slow":
            go_on.wait(_WAIT_S)
        return name

    same: Callable[[str], str] = lambda name: name  # noqa: E731
    return AdapterCache(load, same, num_bytes=len), loads


def test_a_file_that_cannot_be_read_is_tried_again() -> None:
    attempts: list[str] = []

    def load(name: str) -> str:
        attempts.append(name)
        if len(attempts) == 1:
            raise OSError("the disk is away")
        return name

    cache: AdapterCache[str, str] = AdapterCache(load, lambda name: name, num_bytes=len)
    with pytest.raises(OSError, match="the disk is away"):
        cache.get("a").result(_WAIT_S)
    assert cache.get("a").result(_WAIT_S) == "a"
