from __future__ import annotations

import torch

from atelier.models.peak import peak_bytes


def test_the_peak_counts_what_is_in_memory_at_once_and_not_what_follows() -> None:
    def call() -> None:
        for _ in range(3):
            first = torch.empty(1000, dtype=torch.uint8)
            second = torch.empty(500, dtype=torch.uint8)
            del first, second

    assert 1500 <= peak_bytes(call, "cpu") < 1700


def test_a_program_of_torchscript_is_measured_too() -> None:
    layer = torch.nn.Linear(1, 1000)

    @torch.inference_mode()
    def call() -> None:
        layer(layer(torch.ones(1000, 1)).mean(dim=1, keepdim=True))

    assert 4_000_000 <= peak_bytes(call, "cpu") < 8_100_000
