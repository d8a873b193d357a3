"""Budgets of a replica's memory, and how far it goes to need little of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

#: Each level saves what those before it save.
MemoryLevel = Literal["none", "balanced", "sequential", "aggressive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Budgets of one ModelHost, in bytes, and the level of its modules."""

    #: Modules and activations on the device. On the CPU the device's memory is this machine's.
    device_bytes: float = math.inf
    #: Copies in host memory of modules that may have to leave the device.
    host_bytes: int = 0
    level: MemoryLevel = "none"

    @property
    def leaves_after_use(self) -> bool:
        """Whether text encoders and VAEs leave the device as soon as no call uses them."""
        return self.level != "none"

    @property
    def is_streamed(self) -> bool:
        """Whether a UNet is on the device one block at a time."""
        return self.level in ("sequential", "aggressive")

    @property
    def brings_ahead(self) -> bool:
        """Whether the next block of a UNet is brought while one runs."""
        return self.level == "sequential"

    @property
    def is_tiled(self) -> bool:
        """Whether VAEs run over the tiles of large images."""
        return self.level == "aggressive"


UNLIMITED = Memory()
