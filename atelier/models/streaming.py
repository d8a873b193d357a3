"""A module that is never whole on the device: its blocks are there one after the other, as they run.

The block that runs is on the device; at the level `sequential` the next one is brought meanwhile. Every block is a
module of the replica's ModelHost and reads only its own tensors from the weight files. The bits are those of the
whole module. Memory levels are described in docs/memory.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from safetensors import safe_open

from atelier.models.host import BLOCK_MARK, HostedModule, ModelHost, ModuleSource
from atelier.models.loading import Placement
from atelier.models.sources import StoredTensors, stamp_of
from atelier.models.weights import take_all

M = TypeVar("M", bound=torch.nn.Module)
_Lease = Callable[[], AbstractContextManager[None]]


class _Stream(Protocol):
    def leased(self, index: int) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of a streamed module, which is referred to weakly because it refers to its layers."""

    stream: Callable[[], _Stream | None]
    index: int


#: The blocks that the layers of all streamed modules are in.
_BLOCKS: WeakKeyDictionary[torch.nn.Module, _Block] = WeakKeyDictionary()


def at_hand(layer: torch.nn.Module) -> AbstractContextManager[None]:
    """Context manager that has a layer's weights on the device, for uses outside its block's forward pass.

    It does nothing for a layer of a module that is whole where it is leased.
    """
    block = _BLOCKS.get(layer)
    if block is None:
        return nullcontext()
    stream = block.stream()
    assert stream is not None, "a streamed module outlives its layers"
    return stream.leased(block.index)


class StreamedModule(Generic[M]):
    """A module whose blocks are brought as they run. Thread-safe."""

    def __init__(
        self,
        host: ModelHost,
        name: str,
        module: M,
        blocks: Sequence[str],
        files: StoredTensors,
        placement: Placement,
    ) -> None:
        """Stream `module`, whose parameters hold no numbers yet. `blocks` names its submodules in their order.

        `files` has the weights. Raises ValueError if a tensor of the module is in none of the blocks.
        """
        self._host = host
        self._module = module
        self._files = _TensorFiles(files, placement.dtype)
        self._names = tuple(blocks)
        self._blocks: list[HostedModule[torch.nn.Module]] = []
        self._bringing = _new_thread() if placement.memory.brings_ahead else None
        self._ahead: dict[int, Future[None]] = {}
        take_all(module, placement.dtype)
        for index, block_name in enumerate(blocks):
            block = module.get_submodule(block_name)
            source = self._files.source(block_name, block)
            self._blocks.append(host.add(f"{name}{BLOCK_MARK}{block_name}", source))
            for layer in block.modules():
                _BLOCKS[layer] = _Block(ref(self), index)
            block.forward = _streamed(partial(self._running, index), block.forward)
        self._check_complete()

    @contextmanager
    def lease(self) -> Iterator[M]:
        """Use the module while the context is open; each block is brought when it is called."""
        yield self._module

    def bring(self) -> None:
        """Bring the first block to the device. Raises what `HostedModule.lease` raises."""
        self._blocks[0].bring()

    def beside(self, num_bytes: int) -> AbstractContextManager[None]:
        """Return a context in which the device keeps room for activations, for calls of this module."""
        return self._host.reserve(num_bytes)

    @property
    def num_bytes(self) -> int:
        """Number of bytes that must be on the device at once: those of the largest block."""
        return max(block.num_bytes for block in self._blocks)

    @property
    def bring_s(self) -> float:
        """Seconds until the module can be called; 0, because every call brings all blocks anyway."""
        return 0.0

    def unload(self) -> bool:
        """Take all blocks out of memory; return whether one is still there, because it is used."""
        wait(list(self._ahead.values()))
        return sum(block.unload() for block in self._blocks) > 0

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of the module's state by name, in its order; each is there until the next one."""
        for index, names in groupby(self._module.state_dict(), self._block_of):
            with self.leased(index):
                tensors = self._module.get_submodule(self._names[index]).state_dict()
                yield from ((name, tensors[name.removeprefix(f"{self._names[index]}.")]) for name in names)

    @contextmanager
    def leased(self, index: int) -> Iterator[None]:
        """Have a block on the device; if it was not brought ahead, all others leave first."""
        if (ahead := self._ahead.pop(index, None)) is not None:
            ahead.result()
        else:
            self._leave_all_but(index)
        with self._blocks[index].lease():
            yield

    @contextmanager
    def _running(self, index: int) -> Iterator[None]:
        """Have a block on the device while it runs; the next one is brought meanwhile."""
        with self.leased(index):
            if self._bringing is not None:
                following = (index + 1) % len(self._blocks)
                self._ahead[following] = self._bringing.submit(self._bring_next, index, following)
            yield

    # Leaving waits for the kernels of the block before, which would hold up those of the block that runs.
    def _bring_next(self, index: int, following: int) -> None:
        self._leave_all_but(index, following)
        self._blocks[following].bring()

    def _leave_all_but(self, *indices: int) -> None:
        for index, block in enumerate(self._blocks):
            if index not in indices:
                block.leave()

    def _block_of(self, tensor: str) -> int:
        return next(index for index, name in enumerate(self._names) if tensor.startswith(f"{name}."))

    def _check_complete(self) -> None:
        inside = {tensor for tensor in self._module.state_dict() if any(map(tensor.startswith, self._prefixes))}
        outside = sorted({*self._module.state_dict(), *dict(self._module.named_buffers())} - inside)
        if outside:
            raise ValueError(f"its tensors {', '.join(outside)} are in no block that can be streamed")

    @property
    def _prefixes(self) -> tuple[str, ...]:
        return tuple(f"{name}." for name in self._names)


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    num_values: int


class _TensorFiles:
    """The weight files of a module, read tensor by tensor."""

    def __init__(self, files: StoredTensors, dtype: torch.dtype) -> None:
        self._paths = files.paths
        self._name_in_file = files.name_in_file
        self._dtype = dtype

    def source(self, name: str, block: torch.nn.Module) -> ModuleSource[torch.nn.Module]:
        """Return where a block comes from; it is always the same one, which is filled again."""
        names = {key: self._name_in_file(f"{name}.{key}") for key, _ in block.named_parameters()}

        def num_bytes() -> int:
            return sum(self._stored[key].num_values for key in names.values()) * self._dtype.itemsize

        return ModuleSource(load=partial(self._fill, block, names), num_bytes=num_bytes, stamp=self._stamp)

    def _fill(self, block: torch.nn.Module, names: Mapping[str, str]) -> torch.nn.Module:
        parameters = dict(block.named_parameters())
        with self._paths():
            for path, keys in groupby(names, lambda key: self._stored[names[key]].path):
                with safe_open(path, framework="pt") as file:
                    for key in keys:
                        parameters[key].data = self._converted(file.get_tensor(names[key]))
        return block

    def _converted(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor of the file, in the precision and memory format of the whole module's."""
        memory_format = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        return tensor.to(self._dtype, copy=True, memory_format=memory_format)

    def _stamp(self) -> object:
        with self._paths() as paths:
            return [stamp_of(path) for path in paths]

    @cached_property
    def _stored(self) -> Mapping[str, _Stored]:
        """The file and the number of values of each tensor, by its name; only headers are read."""
        stored = {}
        with self._paths() as paths:
            for path in paths:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 no mapping
                        stored[name] = _Stored(path, math.prod(file.get_slice(name).get_shape()))
        return stored


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "blocks", torch.set_num_threads, (1,))


def _streamed(running: _Lease, forward: Callable[..., object]) -> Callable[..., object]:
    """Return a block's forward pass, for which the block is brought."""

    def run(*inputs: object, **named: object) -> object:
        with running():
            return forward(*inputs, **named)

    return run
