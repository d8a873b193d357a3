"""The measurements at SDXL's real size, run with the zoo's model on the CPU, and what is correct in them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.launches import meta_unet
from benchmarks.sdxl_gpu import measure
from benchmarks.sdxl_setup import Numbers, zoo_setup
from benchmarks.sdxl_size import new_vae

pytestmark = [pytest.mark.slow, pytest.mark.zoo]


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    return measure(replace(zoo_setup(), num_repetitions=1))


def test_latents_are_those_of_diffusers_before_anything_is_timed(numbers: Numbers) -> None:
    assert list(numbers)[1].startswith("latents")
    assert float(numbers["latents: engine's difference to diffusers in float32"]) < 5e-4
    assert numbers["latents: exact ones alone and in a batch"] == "same bits"


def test_every_part_gives_numbers(numbers: Numbers) -> None:
    for part in (
        "2 rows: step",
        "160x96",
        "LoRAs",
        "one control",
        "three controls",
        "admit",
        "diffusers / engine",
        "VAE",
    ):
        values = [float(value) for name, value in numbers.items() if part in name]
        assert values, part
        assert min(values) > 0, part


def test_the_modules_have_the_real_sizes() -> None:
    with torch.device("meta"):
        modules = meta_unet(is_tiny=False), new_vae()
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in modules]
    assert sizes == [2_567_463_684, 83_653_863]
