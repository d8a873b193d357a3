"""Budgets of a replica's memory."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Budgets of one ModelHost, in bytes."""

    #: Modules and activations on the device. On the CPU the device's memory is this machine's.
    device_bytes: float = math.inf
    #: Copies in host memory of modules that may have to leave the device.
    host_bytes: int = 0


UNLIMITED = Memory()
