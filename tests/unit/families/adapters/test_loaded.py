"""LoRAs of a replica: what waits for files, and what does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from atelier.core.errors import AdapterInvalid
from atelier.families.unet.adapters.adapter import Adapter
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.loaded import LoadedAdapters
from tests.small_models import CPU

_WAIT_S = 30


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """Set when slow files may be read."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def adapters(tmp_path: Path, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch) -> LoadedAdapters:
    """LoRAs without layers, in files that are read when `go_on` is set."""

    def read(file: Path, *, name: str, modules: Mapping[Part, torch.nn.Module]) -> Adapter:  # noqa: ARG001
        go_on.wait(_WAIT_S)
        return Adapter(unet={}, text_encoder={}, text_encoder_2={}, weights_hash=name)

    monkeypatch.setattr("atelier.families.unet.adapters.loaded.read_adapter", read)
    for name in "abcdef":
        (tmp_path / name).touch()
    return LoadedAdapters(lambda name: tmp_path / name, lambda _: {}, CPU)


def test_a_request_that_gives_up_takes_nothing_from_others(adapters: LoadedAdapters, go_on: threading.Event) -> None:
    """Four LoRAs load at a time. Of six, two have not begun to load when their requests give up."""
    given_up = [adapters.get("model", name) for name in "abcdef"]
    assert [adapter.cancel() for adapter in given_up] == [False] * 6
    go_on.set()
    assert [adapters.get("model", name).result(_WAIT_S).weights_hash for name in "abcdef"] == list("abcdef")


def test_a_slow_folder_is_waited_for_by_its_requests_alone(go_on: threading.Event) -> None:
    def find(name: str) -> Path:
        go_on.wait(_WAIT_S)
        raise AdapterInvalid(f"no {name}")

    adapter = LoadedAdapters(find, lambda _: {}, CPU).get("model", "a")
    assert not adapter.done()
    go_on.set()
    with pytest.raises(AdapterInvalid, match="no a"):
        adapter.result(_WAIT_S)


def test_a_file_that_is_gone_is_named(adapters: LoadedAdapters, tmp_path: Path) -> None:
    (tmp_path / "a").unlink()
    with pytest.raises(AdapterInvalid, match=r"LoRA 'a': .*No such file"):
        adapters.get("model", "a").result(_WAIT_S)


def test_loras_on_the_device_are_named(adapters: LoadedAdapters, go_on: threading.Event) -> None:
    go_on.set()
    for name in "ba":
        adapters.get("model", name).result(_WAIT_S)
    assert adapters.resident() == ["a", "b"]
