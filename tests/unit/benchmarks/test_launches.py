"""A step waits for nothing: it runs on a device where reading any value raises an error."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from atelier.core.geometry import Size
from atelier.core.sampling import SAMPLERS, SamplerName
from benchmarks.launches import Steps, counted, meta_unet

_SIZE = Size(width=128, height=128)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return meta_unet(is_tiny=True)


def _samplers(*, noisy: bool) -> list[SamplerName]:
    draw_noise = {"euler_a", "dpmpp_2m_sde", "lcm"}
    return [name for name in SAMPLERS if (name in draw_noise) is noisy]


def test_a_step_copies_nothing_from_the_host_and_reads_nothing(unet: UNet2DConditionModel) -> None:
    steps = Steps(unet, _SIZE, _samplers(noisy=False))
    for _ in range(2):
        assert steps.step().copies == 0


def test_the_noise_of_all_requests_is_one_copy_that_nothing_waits_for(unet: UNet2DConditionModel) -> None:
    counts = Steps(unet, _SIZE, [*_samplers(noisy=True), "euler"]).step()
    assert (counts.copies, counts.blocking_copies) == (1, 0)


def test_a_request_joins_without_waiting(unet: UNet2DConditionModel) -> None:
    one, four = (Steps(unet, _SIZE, ["euler"] * count).admission for count in (1, 4))
    assert one.blocking_copies == four.blocking_copies == 0
    assert one.copies <= 12


def test_a_step_adds_few_kernels_to_the_unets_however_many_requests_it_has(unet: UNet2DConditionModel) -> None:
    added = []
    for count in (2, 16):
        steps = Steps(unet, _SIZE, ["euler"] * count)
        added.append(steps.step().kernels - steps.call().kernels)
    assert added[0] == added[1] <= 30


@pytest.mark.parametrize(("num_chunks", "has_bias"), [(1, False), (2, True)])
def test_prompts_of_one_chunk_are_read_without_a_bias(
    unet: UNet2DConditionModel, num_chunks: int, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend, biased = torch.nn.functional.scaled_dot_product_attention, list[bool]()

    def watched(*args: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
        biased.append(attn_mask is not None)
        return attend(*args, attn_mask=attn_mask)  # type: ignore[misc, arg-type]

    steps = Steps(unet, _SIZE, ["euler"], num_chunks=num_chunks)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    steps.step()
    assert any(biased) is has_bias


def test_what_reads_or_copies_is_seen() -> None:
    with counted() as counts:
        there = torch.zeros(2, device="meta")
        torch.ones(2).to("meta")
        with pytest.raises(NotImplementedError):
            there.tolist()
    assert (counts.kernels, counts.copies, counts.blocking_copies) == (1, 1, 1)
