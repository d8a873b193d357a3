"""Modules that are brought block by block: what they compute, and what is in memory meanwhile."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atelier.core.errors import ModelUnavailable
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.memory import Memory, MemoryLevel
from atelier.models.sources import StoredTensors
from atelier.models.streaming import StreamedModule, at_hand

_WAIT_S = 30
_SIDE, _NUM_BLOCKS = 8, 5
#: Bytes of one block: the weight and the bias of a linear layer.
_BYTES = 4 * (_SIDE * _SIDE + _SIDE)
_LEVELS: tuple[MemoryLevel, ...] = ("sequential", "aggressive")

Streamed = StreamedModule[torch.nn.Sequential]


def _network() -> torch.nn.Sequential:
    return torch.nn.Sequential(*(torch.nn.Linear(_SIDE, _SIDE) for _ in range(_NUM_BLOCKS)))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The weights of a network in two files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = list(_network().state_dict().items())
    paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    save_file(dict(tensors[:5]), paths[0])
    save_file(dict(tensors[5:]), paths[1])
    return paths


@pytest.fixture
def expected() -> torch.Tensor:
    """The output of the whole network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output: torch.Tensor = _network()(torch.ones(1, _SIDE))
    return output


def _streamed(
    files: list[Path], level: MemoryLevel, *, blocks: str = "01234", num_copies: int = 0
) -> tuple[Streamed, ModelHost]:
    @contextmanager
    def paths() -> Iterator[list[Path]]:
        yield files

    placement = Placement("cpu", "float32", Memory(level=level, host_bytes=num_copies * _BYTES))
    host = ModelHost(placement)
    with torch.device("meta"):
        network = _network()
    return StreamedModule(host, "network", network, tuple(blocks), StoredTensors(paths), placement), host


def _run(streamed: Streamed) -> torch.Tensor:
    with streamed.lease() as module, torch.inference_mode():
        output: torch.Tensor = module(torch.ones(1, _SIDE))
    return output


@pytest.mark.parametrize("level", _LEVELS)
def test_blocks_compute_what_the_whole_computes_every_time(
    files: list[Path], expected: torch.Tensor, level: MemoryLevel
) -> None:
    streamed, host = _streamed(files, level)
    assert all(torch.equal(_run(streamed), expected) for _ in range(3))
    assert host.status().peak_device_bytes == {"sequential": 2, "aggressive": 1}[level] * _BYTES


def test_blocks_come_back_from_host_memory(files: list[Path], expected: torch.Tensor) -> None:
    streamed, host = _streamed(files, "aggressive", num_copies=_NUM_BLOCKS)
    for _ in range(3):
        assert torch.equal(_run(streamed), expected)
    assert host.status().num_loaded == _NUM_BLOCKS


def test_threads_share_the_blocks(files: list[Path], expected: torch.Tensor) -> None:
    for level in _LEVELS:
        streamed, _ = _streamed(files, level)
        with ThreadPoolExecutor(3) as threads:
            outputs = list(threads.map(lambda _, streamed=streamed: _run(streamed), range(60)))
        assert all(torch.equal(output, expected) for output in outputs)


def test_a_layer_is_at_hand_outside_of_its_block(files: list[Path]) -> None:
    with torch.inference_mode():
        streamed, _ = _streamed(files, "aggressive")
    with streamed.lease() as module:
        layer = module[3]
        assert isinstance(layer, torch.nn.Linear)
        assert layer.weight.isnan().all()
        with at_hand(layer):
            assert layer.weight.isfinite().all()
            assert layer.weight.requires_grad
            assert not layer.weight.is_inference()
        with at_hand(module[0]):
            assert layer.weight.isnan().all()


def test_a_layer_of_another_module_is_always_at_hand() -> None:
    layer = torch.nn.Linear(_SIDE, _SIDE)
    with at_hand(layer):
        assert layer.weight.isfinite().all()


def test_named_tensors_are_those_of_the_state_in_its_order(files: list[Path]) -> None:
    streamed, _ = _streamed(files, "aggressive")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = _network().state_dict()
    names = []
    for name, tensor in streamed.named_tensors():
        names.append(name)
        assert torch.equal(tensor, state[name])
    assert names == list(state)


def test_a_tensor_in_no_block_is_refused(files: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"4\.bias, 4\.weight are in no block"):
        _streamed(files, "aggressive", blocks="0123")


def test_files_that_changed_meanwhile_are_refused(files: list[Path]) -> None:
    streamed, _ = _streamed(files, "aggressive")
    _run(streamed)
    os.utime(files[1], ns=(1, 1))
    with pytest.raises(ModelUnavailable, match="its files have changed"):
        _run(streamed)


@pytest.mark.parametrize("level", _LEVELS)
def test_unloading_leaves_no_block(files: list[Path], expected: torch.Tensor, level: MemoryLevel) -> None:
    streamed, host = _streamed(files, level, num_copies=_NUM_BLOCKS)
    _run(streamed)
    with streamed.lease() as module, at_hand(module[1]):
        assert streamed.unload()
        assert host.status().resident == ("network#1",)
    assert not streamed.unload()
    assert (host.status().device_bytes, host.status().host_bytes) == (0, 0)
    assert torch.equal(_run(streamed), expected)


def test_the_next_block_is_brought_while_one_runs(
    files: list[Path], expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product of block 2 waits until block 3 is there, which would never come after it."""
    streamed, host = _streamed(files, "sequential")
    num_products = itertools.count()
    linear = torch.nn.functional.linear

    def waiting(*inputs: torch.Tensor) -> torch.Tensor:
        if next(num_products) == 2:
            end_s = time.monotonic() + _WAIT_S
            while "network#3" not in host.status().resident:
                assert time.monotonic() < end_s
                time.sleep(0.001)
        return linear(*inputs)

    monkeypatch.setattr(torch.nn.functional, "linear", waiting)
    assert torch.equal(_run(streamed), expected)
