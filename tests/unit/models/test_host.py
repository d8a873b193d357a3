"""Modules of a replica under a budget: which are in memory when, and that what they compute stays the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from atelier.core.errors import ModelUnavailable
from atelier.models.host import HostedModule, HostStatus, ModelHost, ModuleSource
from atelier.models.loading import Placement
from atelier.models.memory import Memory
from atelier.models.programs import TRACING, traced

_WAIT_S = 30
_SIDE = 16
#: Bytes of one module: the weight and the bias of a linear layer.
_BYTES = 4 * (_SIDE * _SIDE + _SIDE)


class _Disk:
    """Files of modules, each a linear layer of random weights, which are counted when they are read."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.stamp = 0

    def source(self, name: str) -> ModuleSource[torch.nn.Linear]:
        def load() -> torch.nn.Linear:
            self.read.append(name)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(sum(map(ord, name)))
                return torch.nn.Linear(_SIDE, _SIDE)

        return ModuleSource(load=load, num_bytes=lambda: _BYTES, stamp=lambda: self.stamp)


@pytest.fixture
def disk() -> _Disk:
    return _Disk()


def _host(num_modules: float, num_copies: int = 0) -> ModelHost:
    memory = Memory(device_bytes=num_modules * _BYTES, host_bytes=num_copies * _BYTES)
    return ModelHost(Placement("cpu", "float32", memory))


def _added(host: ModelHost, disk: _Disk, names: str) -> list[HostedModule[torch.nn.Linear]]:
    return [host.add(name, disk.source(name)) for name in names]


def _run(hosted: HostedModule[torch.nn.Linear]) -> torch.Tensor:
    with hosted.lease() as module, torch.inference_mode():
        output: torch.Tensor = module(torch.ones(1, _SIDE))
    return output


def test_a_module_that_left_and_came_back_computes_the_same(disk: _Disk) -> None:
    host = _host(1)
    first, second = _added(host, disk, "ab")
    expected = disk.source("a").load()(torch.ones(1, _SIDE))
    assert torch.equal(_run(first), expected)
    assert not torch.equal(_run(second), expected)
    assert torch.equal(_run(first), expected)
    assert host.status().resident == ("a",)


def test_a_module_that_comes_back_in_inference_mode_is_what_it_was(disk: _Disk) -> None:
    first, second = _added(_host(1), disk, "ab")
    with torch.inference_mode():
        _run(first)
        _run(second)
        with first.lease() as module:
            assert module.weight.requires_grad
            assert not module.weight.is_inference()


def test_a_program_of_a_module_sees_the_weights_that_came_back(disk: _Disk) -> None:
    first, second = _added(_host(1), disk, "ab")
    with first.lease() as module:
        program = TRACING.submit(traced, module, (torch.ones(1, _SIDE),)).result(_WAIT_S)
    expected = _run(first)
    _run(second)
    assert program(torch.ones(1, _SIDE)).isnan().all()
    with first.lease(), torch.inference_mode():
        assert torch.equal(program(torch.ones(1, _SIDE)), expected)


def test_the_budget_is_never_exceeded(disk: _Disk) -> None:
    host = _host(2)
    modules = _added(host, disk, "abcd")
    for module in (*modules, *modules):
        _run(module)
    status = host.status()
    assert status.peak_device_bytes == 2 * _BYTES
    assert status.num_brought == status.num_loaded == 8


def test_a_module_that_is_there_is_not_brought_again(disk: _Disk) -> None:
    host = _host(2)
    for module in _added(host, disk, "ab") * 3:
        _run(module)
    assert disk.read == ["a", "b"]


def test_modules_come_back_from_host_memory_as_long_as_it_has_room(disk: _Disk) -> None:
    host = _host(1, num_copies=1)
    first, second, third = _added(host, disk, "abc")
    expected = [_run(module) for module in (first, second)]
    assert torch.equal(_run(first), expected[0])
    assert torch.equal(_run(second), expected[1])
    assert disk.read == ["a", "b"]
    assert host.status().host_bytes == _BYTES
    _run(third)
    assert torch.equal(_run(first), expected[0])
    assert disk.read == ["a", "b", "c", "a"]


def test_modules_keep_their_shapes_while_they_are_elsewhere(disk: _Disk) -> None:
    first, second = _added(_host(1), disk, "ab")
    with first.lease() as module:
        pass
    _run(second)
    assert module.weight.shape == (_SIDE, _SIDE)
    assert module.weight.untyped_storage().nbytes() < 16


def test_what_can_never_fit_is_refused_with_the_sizes(disk: _Disk) -> None:
    [module] = _added(_host(0.5), disk, "a")
    with pytest.raises(ModelUnavailable, match=r"'a' takes .* Raise `memory_gib`"):
        _run(module)
    assert disk.read == []


def test_files_that_changed_meanwhile_are_refused(disk: _Disk) -> None:
    first, second = _added(_host(1), disk, "ab")
    _run(first)
    _run(second)
    disk.stamp = 1
    with pytest.raises(ModelUnavailable, match="'a': its files have changed"):
        _run(first)


def test_a_module_that_cannot_be_loaded_takes_no_room(disk: _Disk) -> None:
    def fail() -> torch.nn.Linear:
        raise ModelUnavailable("no file")

    host = _host(1)
    broken = host.add("broken", replace(disk.source("broken"), load=fail))
    with pytest.raises(ModelUnavailable, match="no file"):
        _run(broken)
    assert host.status().device_bytes == 0


def test_a_module_that_loads_but_is_refused_can_be_added_again(disk: _Disk) -> None:
    host = _host(1)
    [refused] = _added(host, disk, "a")
    with pytest.raises(ValueError, match="not of this family"), refused.lease():
        raise ValueError("not of this family")
    [again] = _added(host, disk, "a")
    assert torch.equal(_run(again), disk.source("a").load()(torch.ones(1, _SIDE)))
    assert host.status().device_bytes == _BYTES


def test_an_exclusive_model_has_room_for_its_activations(disk: _Disk) -> None:
    host = ModelHost(Placement("cpu", "float32"))
    [other] = _added(host, disk, "a")
    alone = host.add("b", replace(disk.source("b"), is_model=True, is_exclusive=True))
    _run(other)
    with alone.lease(), host.reserve(_BYTES):
        assert host.status().resident == ("a", "b")


def test_a_lease_waits_until_others_have_ended(disk: _Disk) -> None:
    host = _host(1)
    first, second = _added(host, disk, "ab")
    with first.lease():
        waiting = _in_thread(lambda: _run(second))
        waiting.join(0.2)
        assert host.status().resident == ("a",)
    waiting.join(_WAIT_S)
    assert host.status().resident == ("b",)


def test_threads_that_need_a_module_at_once_load_it_once(disk: _Disk) -> None:
    [module] = _added(_host(1), disk, "a")
    threads = [_in_thread(lambda: _run(module)) for _ in range(8)]
    for thread in threads:
        thread.join(_WAIT_S)
    assert disk.read == ["a"]


def test_modules_leave_for_activations(disk: _Disk) -> None:
    host = _host(2)
    first, second = _added(host, disk, "ab")
    _run(first)
    _run(second)
    with second.lease(), host.reserve(_BYTES):
        assert host.status().resident == ("b",)
        assert host.status().device_bytes == 2 * _BYTES
    assert host.status().device_bytes == _BYTES


def test_an_unloaded_module_is_nowhere_until_it_is_needed(disk: _Disk) -> None:
    host = _host(2, num_copies=2)
    [module] = _added(host, disk, "a")
    _run(module)
    with module.lease():
        assert host.unload("a")
    assert not host.unload("a")
    assert not host.unload("a")
    assert (host.status().device_bytes, host.status().host_bytes) == (0, 0)
    _run(module)
    assert disk.read == ["a", "a"]


def test_only_a_module_that_is_elsewhere_takes_time_to_bring(disk: _Disk) -> None:
    first, second = _added(_host(1), disk, "ab")
    _run(first)
    assert first.bring_s == 0
    _run(second)
    assert first.bring_s > 0


def test_a_module_that_leaves_after_use_is_there_while_it_is_leased_only(disk: _Disk) -> None:
    host = _host(2, num_copies=1)
    module = host.add("a", replace(disk.source("a"), leaves_after_use=True))
    with module.lease():
        with module.lease():
            pass
        assert host.status().resident == ("a",)
    assert host.status().resident == ()
    assert host.status().host_bytes == _BYTES
    assert torch.equal(_run(module), disk.source("a").load()(torch.ones(1, _SIDE)))
    assert disk.read == ["a", "a"], "read once by the module, and once by this test"


def test_a_module_that_leaves_after_use_stays_when_it_is_brought_before(disk: _Disk) -> None:
    host = _host(2)
    module = host.add("a", replace(disk.source("a"), leaves_after_use=True))
    module.bring()
    assert host.status().resident == ("a",)
    _run(module)
    assert host.status().resident == ()


def test_a_block_counts_as_a_part_of_its_model() -> None:
    status = HostStatus(
        resident=("of/one/unet#mid_block", "two/vae", "canny"),
        device_bytes=0,
        peak_device_bytes=0,
        host_bytes=0,
        num_brought=0,
        num_loaded=0,
    )
    assert status.models == ("of/one", "two")


def _in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread
