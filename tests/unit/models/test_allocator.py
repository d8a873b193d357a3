"""Freed memory is used again without page faults. Each measurement needs a process with its own settings."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Prints the page faults of using and freeing 64 MiB ten times, in blocks of so many MiB, after it was done once.
_FAULTS = """
import resource, sys
from atelier.models.allocator import keep_freed_memory

def use_and_free(block_mib):
    blocks = [bytearray(block_mib << 20) for _ in range(64 // block_mib)]
    for block in blocks:
        block[::4096] = b'x' * (len(block) // 4096)

if sys.argv[1] == "keep":
    keep_freed_memory()
use_and_free(int(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use_and_free(int(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_PAGES = 10 * 64 * 256


def _faults(*arguments: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", _FAULTS, *arguments]))


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_freed_blocks_are_kept_and_very_large_ones_returned() -> None:
    assert _faults("keep", "4") < _PAGES / 50
    assert _faults("default", "4") > _PAGES / 2
    assert _faults("keep", "64") > _PAGES / 2
