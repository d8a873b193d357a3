"""The LoRAs of a replica's models, loaded when the first request asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from atelier.core.errors import AdapterInvalid
from atelier.families.unet.adapters.adapter import Adapter, Layers, LowRank
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.reading import read_adapter
from atelier.models.adapters import AdapterCache
from atelier.models.loading import Placement


@dataclass(frozen=True, slots=True)
class _File:
    """A LoRA for one model; another file in its place is another LoRA."""

    model: str
    lora: str
    path: Path
    inode: int
    modified_ns: int
    size_bytes: int


class LoadedAdapters:
    """Loads LoRAs for the modules of a replica, and keeps those that were used last. Thread-safe."""

    def __init__(
        self,
        find: Callable[[str], Path],
        modules: Callable[[str], Mapping[Part, torch.nn.Module]],
        placement: Placement,
    ) -> None:
        """`find` returns the file of a LoRA by its id; `modules` those of a model that LoRAs change."""
        self._find = find
        self._modules = modules
        self._placement = placement
        self._cache: AdapterCache[_File, Adapter] = AdapterCache(self._read, self._to_device, num_bytes=_num_bytes)
        self._lookups = ThreadPoolExecutor(1, "lora-lookups")

    def get(self, model: str, lora: str) -> Future[Adapter]:
        """Return the future of a LoRA on the device, in the model's precision. Does not wait for any file.

        The future cannot be cancelled. It raises what `find` raises, and AdapterInvalid if the file cannot be read or
        does not fit the model.
        """
        adapter: Future[Adapter] = Future()
        adapter.set_running_or_notify_cancel()
        self._lookups.submit(self._look_up, model, lora, adapter)
        return adapter

    def _look_up(self, model: str, lora: str, adapter: Future[Adapter]) -> None:
        try:
            loading = self._cache.get(self._file(model, lora))
        except Exception as error:
            adapter.set_exception(error)
        else:
            loading.add_done_callback(partial(_pass_on, adapter))

    def _file(self, model: str, lora: str) -> _File:
        path = self._find(lora)
        try:
            stat = path.stat()
        except OSError as error:
            raise AdapterInvalid(f"LoRA {lora!r}: {error}.", param="loras") from error
        return _File(model, lora, path, stat.st_ino, stat.st_mtime_ns, stat.st_size)

    def resident(self) -> list[str]:
        """Return the ids of the LoRAs on the device."""
        return sorted({file.lora for file in self._cache.resident()})

    def _read(self, file: _File) -> Adapter:
        adapter = read_adapter(file.path, name=file.lora, modules=self._modules(file.model))
        return _converted(adapter, lambda tensor: tensor.to(self._placement.dtype))

    def _to_device(self, adapter: Adapter) -> Adapter:
        return _converted(adapter, lambda tensor: tensor.to(self._placement.device))


def _pass_on(adapter: Future[Adapter], loading: Future[Adapter]) -> None:
    """End the future of one request as the one that several share has ended."""
    if (error := loading.exception()) is None:
        adapter.set_result(loading.result())
    else:
        adapter.set_exception(error)


def _converted(adapter: Adapter, convert: Callable[[torch.Tensor], torch.Tensor]) -> Adapter:
    def layers(changes: Layers) -> Layers:
        return {name: LowRank(convert(change.down), convert(change.up)) for name, change in changes.items()}

    return replace(
        adapter,
        unet=layers(adapter.unet),
        text_encoder=layers(adapter.text_encoder),
        text_encoder_2=layers(adapter.text_encoder_2),
    )


def _num_bytes(adapter: Adapter) -> int:
    return sum(tensor.nbytes for tensor in _tensors(adapter))


def _tensors(adapter: Adapter) -> Iterator[torch.Tensor]:
    for layers in (adapter.unet, adapter.text_encoder, adapter.text_encoder_2):
        for change in layers.values():
            yield from (change.down, change.up)
