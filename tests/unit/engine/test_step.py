"""Guidance against the formulas of diffusers' pipelines, and what a failure in a step leaves behind."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

from atelier.core.sampling import Sampling
from atelier.engine.packing import ImageGuidance, Packed
from atelier.engine.request import InpaintState, RunningRequest
from atelier.engine.step import advance, guide, noise_of_step, numbers_of_step
from tests.failing import FailAt
from tests.unit.engine.requests import new_request, running


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


def test_guidance_of_an_edit_moves_towards_its_image_and_then_towards_its_prompt() -> None:
    noise_pred = _noise_pred(4)
    packed = replace(
        _packed(positive_row=[2, 3], negative_row=[0, 3], guidance_scale=[5.0, 1.0], rescale={}),
        image_guidance=ImageGuidance(torch.tensor([1, 3]), torch.tensor([1.5, 2.0]).view(-1, 1, 1, 1)),
    )
    guided, (uncond, image, text, alone) = guide(noise_pred, packed), noise_pred
    torch.testing.assert_close(guided[0], uncond + 5.0 * (text - image) + 1.5 * (image - uncond))
    torch.testing.assert_close(guided[1], alone, atol=0, rtol=0)


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


def _noisy_requests() -> list[RunningRequest]:
    """Two images of a sampler that draws noise, and one with a mask of a sampler that reads D₋₁ as well."""
    sampling = Sampling(num_inference_steps=4, sampler="euler_a")
    requests = [
        running(new_request(num_images=2, sampling=sampling)),
        running(new_request(sampling=Sampling(num_inference_steps=4, sampler="dpmpp_2m_sde"))),
    ]
    generator = torch.Generator().manual_seed(0)
    for request in requests:
        request.step_index = 1
        request.latents, request.denoised_1 = (
            torch.randn(request.latents.shape, generator=generator) for _ in range(2)
        )
    x0 = torch.ones_like(requests[1].latents)
    requests[1].inpaint = InpaintState(x0=x0, noise=x0, mask=(requests[1].latents[0, 0] > 0).float())
    return requests


def _step(requests: list[RunningRequest], *, fail_at: int) -> None:
    latents = torch.cat([request.latents for request in requests])
    with FailAt(fail_at):
        numbers, noise = numbers_of_step(requests), noise_of_step(requests)
        states = advance(requests, numbers, latents, 0.1 * latents, noise)
    for request, state in zip(requests, states, strict=True):
        request.commit(state)


def test_a_step_that_failed_at_any_operation_can_be_taken_again() -> None:
    undisturbed = _noisy_requests()
    _step(undisturbed, fail_at=-1)
    _step(undisturbed, fail_at=-1)
    for operation in itertools.count():
        requests = _noisy_requests()
        try:
            _step(requests, fail_at=operation)
        except MemoryError:
            _step(requests, fail_at=-1)
        else:
            break
        _step(requests, fail_at=-1)
        for ours, theirs in zip(requests, undisturbed, strict=True):
            assert torch.equal(ours.latents, theirs.latents), operation
            assert torch.equal(ours.denoised_2, theirs.denoised_2), operation
    assert operation > 20
