"""Guidance against the formulas of diffusers' pipelines."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

from atelier.engine.packing import Packed
from atelier.engine.step import guide


def _packed(
    *, positive_row: list[int], negative_row: list[int], guidance_scale: list[float], rescale: dict[int, float]
) -> Packed:
    return Packed(
        calls=(),
        positive_row=torch.tensor(positive_row),
        negative_row=torch.tensor(negative_row),
        guidance_scale=torch.tensor(guidance_scale).view(-1, 1, 1, 1),
        guidance_rescale=rescale,
        width=None,
    )


def _noise_pred(num_rows: int) -> torch.Tensor:
    return torch.randn(num_rows, 4, 3, 5, generator=torch.Generator().manual_seed(0))


def test_guidance_moves_away_from_the_negative_prompt() -> None:
    noise_pred = _noise_pred(3)
    packed = _packed(positive_row=[2, 1], negative_row=[0, 1], guidance_scale=[5.0, 1.0], rescale={})
    guided = guide(noise_pred, packed)
    torch.testing.assert_close(guided[0], noise_pred[0] + 5.0 * (noise_pred[2] - noise_pred[0]))
    assert torch.equal(guided[1], noise_pred[1])


@pytest.mark.parametrize("guidance_rescale", [0.3, 1.0])
def test_rescaled_guidance_is_that_of_diffusers(guidance_rescale: float) -> None:
    noise_pred = _noise_pred(4)
    packed = _packed(
        positive_row=[2, 3], negative_row=[0, 1], guidance_scale=[5.0, 7.0], rescale={1: guidance_rescale}
    )
    guided = guide(noise_pred, packed)
    plain = noise_pred[[0, 1]] + torch.tensor([5.0, 7.0]).view(-1, 1, 1, 1) * (
        noise_pred[[2, 3]] - noise_pred[[0, 1]]
    )
    torch.testing.assert_close(guided[0], plain[0])
    expected = rescale_noise_cfg(plain[1:], noise_pred[[3]], guidance_rescale)
    torch.testing.assert_close(guided[1], expected[0])
    assert not torch.allclose(guided[1], plain[1], rtol=0.01)


def test_full_rescale_restores_the_deviation_of_the_positive_prediction() -> None:
    noise_pred = _noise_pred(2)
    guided = guide(noise_pred, _packed(positive_row=[1], negative_row=[0], guidance_scale=[8.0], rescale={0: 1.0}))
    torch.testing.assert_close(guided[0].std(), noise_pred[1].std())
