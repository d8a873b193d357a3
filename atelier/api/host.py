"""The process and the machine that an application runs in: versions, uptime, memory and CPU.

The name of the machine is not among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil

#: Age at which the machine is read again: over a shorter time its load is a random number.
_MAX_AGE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The numbers of a machine at one moment."""

    num_cpus: int | None
    #: Load of all CPUs since the reading before.
    cpu_percent: float
    memory_total_bytes: int
    #: Memory that a new program could not have.
    memory_used_bytes: int


class Host:
    """This process and its machine, from the moment at which the application began."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is the clock of uptime and ages."""
        self._now_s = now_s
        self._started_s = now_s()
        self._read_s = 0.0
        self._machine: Machine | None = None
        # The start of the first reading.
        psutil.cpu_percent()

    @property
    def uptime_s(self) -> float:
        """Seconds since the application began."""
        return self._now_s() - self._started_s

    def machine(self) -> Machine:
        """Return the machine's numbers, which are at most two seconds old."""
        now_s = self._now_s()
        if self._machine is None or now_s - self._read_s > _MAX_AGE_S:
            self._machine, self._read_s = _read(), now_s
        return self._machine


def installed(package: str) -> str | None:
    """Return the version of a package without importing it, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read() -> Machine:
    memory = psutil.virtual_memory()
    return Machine(
        num_cpus=psutil.cpu_count(),
        cpu_percent=psutil.cpu_percent(),
        memory_total_bytes=memory.total,
        memory_used_bytes=memory.total - memory.available,
    )
