"""Lets a process keep the memory that a model frees, for the model's next call.

By default glibc returns it to the operating system and takes it back page by page: 24 decodes by the zoo's VAE
made 12,000 page faults, and make 900 with these settings (tests/integration/test_memory.py).
"""

from __future__ import annotations

import ctypes

#: Parameters of glibc's mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Larger blocks are returned when they are freed; glibc allows no more than this.
_MAX_KEPT_BLOCK_BYTES = 32 * 2**20
#: So much free memory is kept.
_MAX_KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Keep up to 1 GiB of freed memory in this process. Without glibc this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAX_KEPT_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _MAX_KEPT_BYTES)
