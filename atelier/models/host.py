"""The modules of a replica under a budget of bytes: loaded when they are needed first, and taken out for others.

A module is on the device while it is leased, and stays until another one needs its place; the least recently used
leaves first. Its tensors may stay in host memory, from where bringing them back is a copy. Otherwise they are
read from their files again. What was derived from a module, such as traced programs, stays valid meanwhile.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from cachetools import LRUCache

from atelier.core.errors import ModelUnavailable
from atelier.models.ledger import Ledger
from atelier.models.loading import Placement
from atelier.models.transfer import Arrival, Transfer
from atelier.models.weights import Weights, tensors_of

M = TypeVar("M", bound=torch.nn.Module)
Tensors = Sequence[torch.Tensor]

#: Precedes the name of a block in the name of a module that is one block of a larger one.
BLOCK_MARK = "#"
#: Parts of base models, which end the names of their modules.
_PARTS = ("text_encoders", "unet", "vae")
#: Time that a lease waits for those of other threads to end. They last as long as a call of a model.
_MAX_WAIT_S = 20.0
#: Time that bringing a module is taken to need before it was measured.
_UNMEASURED_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSource(Generic[M]):
    """Where a module comes from."""

    #: Loads the module into host memory, in the precision and memory format that it runs in. Raises ModelUnavailable.
    load: Callable[[], M]
    #: Returns the number of bytes that the module will take. Raises ModelUnavailable.
    num_bytes: Callable[[], int]
    #: Identifies the content of the files; None if it cannot change.
    stamp: Callable[[], object] = lambda: None
    #: Whether it stays on the device once it is there.
    is_kept: bool = False
    #: Whether it is a part of a base model, and whether no other model's part may be on the device with it.
    is_model: bool = False
    is_exclusive: bool = False
    #: Whether it leaves the device as soon as no lease is open.
    leaves_after_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """What a ModelHost holds, and what it has done."""

    #: Names of the modules on the device, the least recently used one first.
    resident: tuple[str, ...]
    device_bytes: int
    peak_device_bytes: int
    host_bytes: int
    #: Number of times that a module was brought to the device, and how many of these read its files.
    num_brought: int
    num_loaded: int

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the base models of which a part is on the device."""
        modules = (name.partition(BLOCK_MARK)[0] for name in self.resident)
        parts = (name.rpartition("/") for name in modules)
        return tuple(sorted({model for model, _, part in parts if part in _PARTS}))


class HostedModule(Generic[M]):
    """A module of a ModelHost. Thread-safe."""

    def __init__(self, host: ModelHost, name: str, source: ModuleSource[M]) -> None:
        self.name = name
        self.source = source
        self._host = host
        self._loading = threading.Lock()
        self._module: M | None = None
        self._weights: Weights | None = None
        self._stamp: object = None
        self._arrival: Arrival | None = None
        #: The ends of the kernels of the last leases of each thread.
        self._last_uses: dict[int, torch.cuda.Event] = {}
        #: Number of times that the weights have come to the device, each time to other addresses.
        self.num_arrivals = 0
        #: Time that it took to bring the module to the device when it was last brought.
        self._bring_s = _UNMEASURED_S

    @contextmanager
    def lease(self) -> Iterator[M]:
        """Have the module on the device while the context is open.

        Raises ModelUnavailable if it cannot be loaded, or if the budget has no room for it beside what is in use.
        """
        self._use()
        try:
            assert self._module is not None
            assert self._arrival is not None
            self._arrival.wait()
            yield self._module
        finally:
            self._mark_use()
            self._host.end_use(self, leaves=self.source.leaves_after_use)

    def beside(self, num_bytes: int) -> AbstractContextManager[None]:
        """Return a context in which the device keeps room for activations, for calls of this module."""
        return self._host.reserve(num_bytes)

    def bring(self) -> None:
        """Bring the module to the device, where it stays until others need its place. Raises what `lease` raises."""
        self._use()
        self._host.end_use(self)

    def leave(self) -> None:
        """Take the module off the device unless it is used; a copy stays in host memory if that has room."""
        self._host.leave(self)

    def unload(self) -> bool:
        """Take the module out of memory; return whether it is still there, because it is used."""
        return self._host.unload(self.name)

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of the module's state by name, in its order; they are there until the last one."""
        with self.lease() as module:
            yield from module.state_dict().items()

    @property
    def bring_s(self) -> float:
        """Seconds until the module is on the device: 0 if it is there, otherwise as long as it took the last time."""
        return 0.0 if self._host.has(self) else self._bring_s

    @property
    def num_bytes(self) -> int:
        """Number of bytes on the device. Raises ModelUnavailable if the module's files cannot be read."""
        return self.source.num_bytes() if self._weights is None else self._weights.num_bytes

    @torch.inference_mode(False)
    def take(self) -> list[torch.Tensor]:
        """Take the tensors out of the module, which is not in use, once its last kernels have ended."""
        assert self._weights is not None
        for event in self._last_uses.values():
            event.synchronize()
        self._last_uses.clear()
        self._arrival = None
        return self._weights.take()

    def _use(self) -> None:
        """Begin a use of the module, which is brought if it is not there."""
        with self._loading:
            is_there, copy = self._host.use(self)
            if not is_there:
                self._bring(copy)

    def _mark_use(self) -> None:
        event = self._host.transfer.mark()
        if event is not None:
            self._last_uses[threading.get_ident()] = event

    # Parameters that are made in inference mode are not equal to others: they lose `requires_grad`, by which PyTorch
    # chooses between matrix products that round differently.
    @torch.inference_mode(False)
    def _bring(self, copy: Tensors | None) -> None:
        """Fill the room that the host has made, from a copy in host memory or from the module's files."""
        start_s = time.perf_counter()
        try:
            in_host = self._load() if copy is None else copy
            self._arrival = self._host.on_device(self, in_host, is_copy=copy is not None)
            assert self._weights is not None
            self._weights.put(self._arrival.tensors)
            self.num_arrivals += 1
        except BaseException:
            self._arrival = None
            self._host.give_up(self)
            raise
        self._bring_s = time.perf_counter() - start_s

    def _load(self) -> Tensors:
        """Read the module's tensors into host memory. Raises ModelUnavailable if its files have changed."""
        stamp, module = self.source.stamp(), self.source.load()
        if self._module is None:
            self._module, self._weights, self._stamp = module, Weights(module), stamp
        elif stamp != self._stamp:
            raise ModelUnavailable(f"Model {self.name!r}: its files have changed; restart the server.")
        return [tensor.data for tensor in tensors_of(module)]


class ModelHost:
    """Keeps modules on a device, as many as its budget holds. Thread-safe."""

    def __init__(self, placement: Placement) -> None:
        self._device = placement.device
        #: Copies weights to the device.
        self.transfer = Transfer(placement.device)
        self._changed = threading.Condition()
        # Threads share these, and use them only under `_changed`.
        self._ledger = Ledger(placement.memory.device_bytes)
        self._copies: LRUCache[str, Tensors] = LRUCache(placement.memory.host_bytes, getsizeof=_size)
        #: Take the tensors out of the modules.
        self._takers: dict[str, Callable[[], Tensors]] = {}
        #: Number of uses, by the thread that began them.
        self._users: Counter[int] = Counter()
        self._num_brought = self._num_loaded = 0
        self._reservations = itertools.count()

    def add(self, name: str, source: ModuleSource[M]) -> HostedModule[M]:
        """Add a module, which is loaded at its first lease, in place of one of this name that is not in use."""
        hosted = HostedModule(self, name, source)
        self.unload(name)
        with self._changed:
            self._takers[name] = hosted.take
        return hosted

    @contextmanager
    def reserve(self, num_bytes: int) -> Iterator[None]:
        """Keep room for activations while the context is open; modules that are not in use leave for it.

        Raises ModelUnavailable if there is not enough room beside what is in use.
        """
        name = f"activations {next(self._reservations)}"
        with self._changed:
            self._make_room(name, num_bytes)
            self._ledger.hold(name, num_bytes)
            self._begin_use(name)
        try:
            yield
        finally:
            with self._changed:
                self._end_use(name)
                self._ledger.drop(name)
                self._changed.notify_all()

    def unload(self, name: str) -> bool:
        """Take a module out of memory; return whether it is still on the device, because it is used."""
        with self._changed:
            self._evict_unused(name)
            self._copies.pop(name, None)
            return name in self._ledger

    def status(self) -> HostStatus:
        """Return what is on the device and in host memory now."""
        with self._changed:
            return HostStatus(
                resident=tuple(name for name in self._ledger.names if name in self._takers),
                device_bytes=self._ledger.num_bytes,
                peak_device_bytes=self._ledger.peak_bytes,
                host_bytes=int(self._copies.currsize),
                num_brought=self._num_brought,
                num_loaded=self._num_loaded,
            )

    def has(self, hosted: HostedModule[M]) -> bool:
        """Return whether a module is on the device."""
        with self._changed:
            return hosted.name in self._ledger

    def use(self, hosted: HostedModule[M]) -> tuple[bool, Tensors | None]:
        """Begin a use of a module. Return whether it is on the device; if not, with its copy in host memory, if any.

        Then there is room for it.
        """
        name, source = hosted.name, hosted.source
        with self._changed:
            if name in self._ledger:
                self._begin_use(name)
                return True, None
            # On the CPU a copy becomes the module's tensors. Taken out first, it makes no room for those that leave.
            copy = self._copies.pop(name, None) if self._device == "cpu" else self._copies.get(name)
            num_bytes = hosted.num_bytes
            self._make_room(name, num_bytes, is_model=source.is_model, is_exclusive=source.is_exclusive)
            self._ledger.hold(
                name,
                num_bytes,
                can_leave=not source.is_kept,
                is_model=source.is_model,
                is_exclusive=source.is_exclusive,
            )
            self._begin_use(name)
            return False, copy

    def end_use(self, hosted: HostedModule[M], *, leaves: bool = False) -> None:
        """End a use of a module, which stays until its place is needed, or with `leaves` until nobody uses it."""
        with self._changed:
            self._end_use(hosted.name)
            if leaves and self._evict_unused(hosted.name):
                self.transfer.release()
            self._changed.notify_all()

    def leave(self, hosted: HostedModule[M]) -> None:
        """Take a module off the device unless it is used; a copy stays in host memory if that has room."""
        with self._changed:
            self._evict_unused(hosted.name)

    def give_up(self, hosted: HostedModule[M]) -> None:
        """End a use of a module that could not be brought, and free its room."""
        with self._changed:
            self._end_use(hosted.name)
            self._ledger.drop(hosted.name)
            self._changed.notify_all()

    def on_device(self, hosted: HostedModule[M], tensors: Tensors, *, is_copy: bool) -> Arrival:
        """Copy a module's tensors to the device. Those from a file stay in host memory, too, if that has room."""
        with self._changed:
            self._num_brought += 1
            self._num_loaded += not is_copy
        if self._device == "cpu":
            return self.transfer.copy(tensors)
        if not is_copy and _size(tensors) <= self._copies.maxsize:
            # A copy from pinned memory is several times as fast.
            tensors = [tensor.pin_memory() for tensor in tensors]
            with self._changed:
                self._copies[hosted.name] = tensors
        return self.transfer.copy(tensors)

    def _begin_use(self, name: str) -> None:
        self._ledger.use(name)
        self._users[threading.get_ident()] += 1

    def _end_use(self, name: str) -> None:
        self._ledger.end_use(name)
        self._users[threading.get_ident()] -= 1

    def _make_room(self, name: str, num_bytes: int, *, is_model: bool = False, is_exclusive: bool = False) -> None:
        """Let modules leave until so many bytes fit; wait for others to be no longer in use."""

        def leavers() -> list[str] | None:
            return self._ledger.leavers(num_bytes, is_model=is_model, is_exclusive=is_exclusive)

        # What this thread itself uses is not given back while it waits.
        fits = leavers() is not None
        if not fits and any(num for thread, num in self._users.items() if thread != threading.get_ident()):
            fits = self._changed.wait_for(lambda: leavers() is not None, _MAX_WAIT_S)
        if not fits:
            raise ModelUnavailable(
                f"{name!r} takes {_mib(num_bytes)}, but {_mib(self._ledger.num_bytes)} of the budget of "
                f"{_mib(self._ledger.max_bytes)} are in use. Raise `memory_gib` of this deployment."
            )
        for leaver in leavers() or []:
            self._evict(leaver)

    def _evict_unused(self, name: str) -> bool:
        """Take a module off the device unless it is used; return whether that was done."""
        can_leave = name in self._ledger and not self._ledger.is_used(name)
        if can_leave:
            self._evict(name)
        return can_leave

    def _evict(self, name: str) -> None:
        tensors = self._takers[name]()
        self._ledger.drop(name)
        if self._device == "cpu" and _size(tensors) <= self._copies.maxsize:
            self._copies[name] = tensors
        self._changed.notify_all()


def _size(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _mib(num_bytes: float) -> str:
    return "no bound" if num_bytes == math.inf else f"{num_bytes / 2**20:.0f} MiB"
