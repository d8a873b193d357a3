"""LoRAs in memory: the most recently used on the device, more of them in host memory, the rest in their files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MAX_RESIDENT = 16
MAX_HOST_BYTES = 4 * 2**30

#: A slow file holds up only one of them.
_NUM_THREADS = 4


class AdapterCache(Generic[K, T]):
    """Loads LoRAs in threads of its own, so that nothing that runs waits for a file. Thread-safe.

    A LoRA that is no longer cached stays alive as long as a request holds it.
    """

    def __init__(
        self,
        load: Callable[[K], T],
        to_device: Callable[[T], T],
        *,
        num_bytes: Callable[[T], int],
        max_resident: int = MAX_RESIDENT,
        max_host_bytes: int = MAX_HOST_BYTES,
    ) -> None:
        """`load` reads a LoRA into host memory, where it takes `num_bytes`; `to_device` copies it to the device."""
        self._load = load
        self._to_device = to_device
        self._num_bytes = num_bytes
        self._lock = threading.Lock()
        self._resident: LRUCache[K, T] = LRUCache(max_resident)
        self._host: LRUCache[K, T] = LRUCache(max_host_bytes, getsizeof=num_bytes)
        self._pending: dict[K, Future[T]] = {}
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "adapters", initializer=torch.set_num_threads, initargs=(1,))

    def get(self, key: K) -> Future[T]:
        """Return a LoRA on the device, or a future of one that is being loaded; its exception is that of `load`."""
        with self._lock:
            if key in self._resident:
                done: Future[T] = Future()
                done.set_result(self._resident[key])
                return done
            if key not in self._pending:
                self._pending[key] = self._threads.submit(self._bring, key)
            return self._pending[key]

    def resident(self) -> list[K]:
        """Return the keys of the LoRAs on the device."""
        with self._lock:
            return list(self._resident)

    def _bring(self, key: K) -> T:
        """Bring a LoRA to the device, from host memory or its file."""
        try:
            with self._lock:
                in_host = self._host.get(key)
            loaded = self._load(key) if in_host is None else in_host
            on_device = self._to_device(loaded)
            with self._lock:
                if self._num_bytes(loaded) <= self._host.maxsize:
                    self._host[key] = loaded
                self._resident[key] = on_device
            return on_device
        finally:
            with self._lock:
                del self._pending[key]
