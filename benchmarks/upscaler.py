"""Time and memory of upscaling to a large image.

`python -m benchmarks.upscaler` upscales 1024² and 2048² to 4096² by tiny-x4. It prints the time and the growth
of memory. 2048² is the largest image that a network reads: its output of 8192² is then reduced.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import torch

from atelier.catalogue.catalogue import read_catalogue
from atelier.core.geometry import Size
from atelier.models.loading import Placement
from atelier.models.thread import result_of
from atelier.models.upscaler import Upscalers, UpscaleTask
from benchmarks.results import record

_SIDES_PX, _LARGE_PX = (1024, 2048), 4096
_EVERY_S = 0.005


class Peak:
    """The largest resident memory, in bytes, since the object was made, sampled by a thread."""

    def __init__(self) -> None:
        self.bytes = resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> int:
        """Stop sampling and return the largest memory, in bytes."""
        self._is_over.set()
        self._thread.join()
        return self.bytes

    def _watch(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            self.bytes = max(self.bytes, resident_bytes())


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    upscalers = Upscalers(read_catalogue().upscalers[:1], Placement("cpu", "float32"))
    result_of(upscalers.upscale([_task(side=64, large=256)]))
    measured: dict[str, float | int] = {"the large image itself, MB": round(3 * _LARGE_PX**2 / 1e6)}
    for side in _SIDES_PX:
        task = _task(side=side, large=_LARGE_PX)
        before, peak, start_s = resident_bytes(), Peak(), time.perf_counter()
        result_of(upscalers.upscale([task]))
        measured[f"from {side}x{side}, seconds"] = round(time.perf_counter() - start_s, 2)
        measured[f"from {side}x{side}, peak beyond the start, MB"] = round((peak.end() - before) / 1e6)
    record("upscaler", measured)


def _task(*, side: int, large: int) -> UpscaleTask:
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return UpscaleTask("tiny-x4", noise, Size(width=large, height=large))


if __name__ == "__main__":
    main()
