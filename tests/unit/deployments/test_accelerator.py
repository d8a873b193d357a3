"""What a replica's options say of its memory."""

from __future__ import annotations

import math

from atelier.models.memory import Memory
from deployments.accelerator import placement
from deployments.options import AutoencoderOptions, DenoiserOptions


def test_budgets_and_level_of_the_options_become_those_of_the_placement() -> None:
    options = DenoiserOptions(memory_gib=1.5, host_memory_gib=0.25, memory_level="sequential")
    assert placement(options).memory == Memory(device_bytes=1.5 * 2**30, host_bytes=2**28, level="sequential")


def test_nothing_is_saved_by_default() -> None:
    assert placement(AutoencoderOptions()).memory == Memory(device_bytes=math.inf, host_bytes=0, level="none")
