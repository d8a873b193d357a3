"""Programs without Python against the same halves of the UNet run by Python, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.jit import is_tracing  # type: ignore[attr-defined]

from atelier.catalogue.catalogue import Catalogue
from atelier.families.unet.adapters.adapter import Layers, LowRank
from atelier.families.unet.adapters.rows import RowAdapters, forms, in_faster_form, install_row_changes
from atelier.families.unet.adapters.slots import AdapterSlots
from atelier.families.unet.attention import install, keys_values
from atelier.families.unet.conditions import MASKED, Conditions
from atelier.families.unet.halves import decode_half, encode_half
from atelier.families.unet.traced import TracedUNet, trace
from atelier.models.loading import load_unet
from tests.small_models import CPU, POOLED_WIDTH, TEXT_WIDTHS

_WAIT_S = 60
_LINEAR, _CONVOLUTION = "mid_block.attentions.0.proj_in", "conv_out"


@pytest.fixture
def unet(small_catalogue: Catalogue) -> UNet2DConditionModel:
    unet = load_unet(small_catalogue.model(None), CPU).to(memory_format=torch.channels_last)
    install(unet)
    return unet


@pytest.fixture
def python(unet: UNet2DConditionModel) -> Iterator[list[int]]:
    """The number of rows of every call of the UNet that Python runs, but for those that are being traced."""
    calls: list[int] = []
    forward = unet.conv_in.forward

    def counted(x: torch.Tensor) -> torch.Tensor:
        if not is_tracing():
            calls.append(len(x))
        y: torch.Tensor = forward(x)
        return y

    with patch.object(unet.conv_in, "forward", counted):
        yield calls


def _conditions(unet: UNet2DConditionModel, num_rows: int, num_chunks: int, adapters: RowAdapters) -> Conditions:
    embeds = torch.randn(num_rows, 77 * num_chunks, sum(TEXT_WIDTHS))
    bias = torch.zeros(num_rows, 1, 77 * num_chunks)
    bias[0, :, 40:] = MASKED
    return Conditions(
        prompt=keys_values(unet, embeds),
        prompt_bias=bias,
        pooled_prompt_embeds=torch.randn(num_rows, POOLED_WIDTH),
        add_time_ids=torch.rand(num_rows, 6) * 100,
        adapters=adapters,
    )


def _equal(unet: UNet2DConditionModel, traced: TracedUNet, conditions: Conditions, height: int, width: int) -> bool:
    num_rows = len(conditions.prompt_bias)
    model_input, timesteps = torch.randn(num_rows, 4, height, width), torch.rand(num_rows) * 999
    expected = encode_half(unet, model_input, timesteps, conditions)
    encoded = traced.encode_half(model_input, timesteps, conditions)
    assert all(torch.equal(*skips) for skips in zip(encoded.skips, expected.skips, strict=True))
    return torch.equal(traced.decode_half(encoded, conditions), decode_half(unet, expected, conditions))


@pytest.mark.parametrize(
    ("num_rows", "height", "width", "num_chunks"), [(1, 16, 16, 1), (5, 9, 15, 1), (3, 8, 20, 3), (66, 8, 8, 1)]
)
@torch.inference_mode()
def test_one_program_takes_any_number_of_rows_size_and_length_of_prompts(
    unet: UNet2DConditionModel, python: list[int], num_rows: int, height: int, width: int, num_chunks: int
) -> None:
    traced = trace(unet, CPU)
    python.clear()
    assert _equal(unet, traced, _conditions(unet, num_rows, num_chunks, {}), height, width)
    assert python == [num_rows], "the program called Python"


def _adapters(unet: UNet2DConditionModel, ranks: Sequence[int]) -> RowAdapters:
    """The changes of rows with random LoRAs of these ranks: a linear layer has both forms, a convolution factors."""
    slots, requests = AdapterSlots(), []
    for slot, rank in enumerate(ranks):
        layers: Layers = {name: _change(unet.get_submodule(name).weight, rank) for name in (_LINEAR, _CONVOLUTION)}
        requests.append(layers if slot == 0 else in_faster_form(unet, layers))
        slots.write([slot], requests[-1])
    return slots.read(slice(0, len(ranks)), [forms(layers) for layers in requests])


def _change(weight: torch.Tensor, rank: int) -> LowRank:
    return LowRank(torch.randn(rank, *weight.shape[1:]) * 0.1, torch.randn(len(weight), rank) * 0.1)


@torch.inference_mode()
def test_calls_with_loras_have_a_program_of_their_own_when_it_has_been_traced(
    unet: UNet2DConditionModel, python: list[int]
) -> None:
    install_row_changes(unet)
    traced = trace(unet, CPU)
    adapters = _adapters(unet, [2, 3])
    assert adapters[_LINEAR].weights is not None
    assert adapters[_LINEAR].factors is not None
    assert adapters[_CONVOLUTION].factors is not None
    conditions = _conditions(unet, 2, 1, adapters)
    python.clear()
    start_s = time.monotonic()
    while python != [2]:
        python.clear()
        assert _equal(unet, traced, conditions, 8, 8)
        assert time.monotonic() - start_s < _WAIT_S
    assert _equal(unet, traced, _conditions(unet, 5, 2, _adapters(unet, [4, 1, 6, 2, 3])), 9, 12)
    assert python == [2, 5]


@torch.inference_mode()
def test_a_program_that_cannot_be_traced_is_not_missed(
    unet: UNet2DConditionModel, caplog: pytest.LogCaptureFixture
) -> None:
    install_row_changes(unet)
    traced = trace(unet, CPU)
    conditions, forward = _conditions(unet, 2, 1, _adapters(unet, [2, 3])), unet.conv_in.forward

    def untraceable(x: torch.Tensor) -> torch.Tensor:
        if is_tracing():
            raise RuntimeError("not traced")
        y: torch.Tensor = forward(x)
        return y

    start_s = time.monotonic()
    with patch.object(unet.conv_in, "forward", untraceable):
        while not any("was not traced" in record.message for record in caplog.records):
            assert _equal(unet, traced, conditions, 8, 8)
            assert time.monotonic() - start_s < _WAIT_S
        assert _equal(unet, traced, conditions, 8, 8)
