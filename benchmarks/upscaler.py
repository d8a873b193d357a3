"""What a large picture costs an Upscaler.

`python -m benchmarks.upscaler` enlarges 1024² to 4096² by tiny-x4 and prints the time, and how much memory was in use
at most beyond what was in use before.
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
from atelier.models.loading import Placement
from atelier.models.thread import result_of
from atelier.models.upscaler import Enlargement, Upscalers
from benchmarks.results import record

_SIDE_PX, _LARGE_PX = 1024, 4096
_EVERY_S = 0.005


class Peak:
    """The most memory that was resident since it was made, looked at from a thread."""

    def __init__(self) -> None:
        self.bytes = resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> int:
        self._is_over.set()
        self._thread.join()
        return self.bytes

    def _watch(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            self.bytes = max(self.bytes, resident_bytes())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    upscalers = Upscalers(read_catalogue().upscalers[:1], Placement("cpu", "float32"))
    picture = np.random.default_rng(0).integers(0, 255, (_SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
    result_of(upscalers.upscale([Enlargement("tiny-x4", picture[:64, :64], 256, 256)]))
    before, peak, start_s = resident_bytes(), Peak(), time.perf_counter()
    [(large, _)] = result_of(upscalers.upscale([Enlargement("tiny-x4", picture, _LARGE_PX, _LARGE_PX)]))
    taken_s = time.perf_counter() - start_s
    record(
        "upscaler",
        {
            "seconds": round(taken_s, 2),
            "peak beyond the start, MB": round((peak.end() - before) / 1e6),
            "the large picture itself, MB": round(large.nbytes / 1e6),
        },
    )


if __name__ == "__main__":
    main()
