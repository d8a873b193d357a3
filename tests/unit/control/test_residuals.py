"""Our residuals against `ControlNetModel.forward` of diffusers, on a ControlNet of random weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import ControlNetModel

from atelier.catalogue.catalogue import Catalogue
from atelier.control.programs import trace
from atelier.control.residuals import Residuals, embed_control_image, residuals, scales_of_layers
from atelier.families.unet.attention import install, keys_values
from atelier.families.unet.conditions import Conditions
from atelier.families.unet.halves import Encoded
from atelier.models.loading import load_unet
from tests.small_models import CPU, POOLED_WIDTH, TEXT_WIDTHS
from tests.small_sd15 import TEXT_WIDTH

#: Widths of the prompt's embeddings and of the pooled one.
_WIDTHS = {"small-sdxl": (sum(TEXT_WIDTHS), POOLED_WIDTH), "small-sd15": (TEXT_WIDTH, 0)}


@pytest.fixture(scope="module", params=_WIDTHS)
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def controlnet_pair(two_families: Catalogue, model: str) -> tuple[ControlNetModel, ControlNetModel]:
    """A ControlNet twice: one for diffusers' forward pass, one with our attention."""
    torch.manual_seed(0)
    unet = load_unet(two_families.model(model), CPU)
    theirs, ours = (ControlNetModel.from_unet(unet, conditioning_channels=3).eval() for _ in range(2))
    for parameter in [*theirs.controlnet_down_blocks.parameters(), *theirs.controlnet_cond_embedding.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict(theirs.state_dict())
    install(ours)
    return theirs, ours


@pytest.mark.parametrize(
    ("num_rows", "height", "width", "num_chunks"), [(1, 16, 16, 1), (5, 9, 15, 1), (3, 8, 20, 3)]
)
@torch.inference_mode()
def test_a_program_gives_the_bits_of_residuals(
    controlnet_pair: tuple[ControlNetModel, ControlNetModel],
    model: str,
    num_rows: int,
    height: int,
    width: int,
    num_chunks: int,
) -> None:
    (_, ours), (text_width, pooled_width) = controlnet_pair, _WIDTHS[model]
    conditions = Conditions(
        prompt=keys_values(ours, torch.randn(num_rows, 77 * num_chunks, text_width)),
        prompt_bias=torch.zeros(num_rows, 1, 77 * num_chunks),
        pooled_prompt_embeds=torch.randn(num_rows, pooled_width),
        add_time_ids=torch.rand(num_rows, 6) * 100,
    )
    embedding = embed_control_image(ours, torch.rand(num_rows, 3, 8 * height, 8 * width))
    inputs = (torch.randn(num_rows, 4, height, width), torch.rand(num_rows) * 999, conditions, embedding)
    expected, made = residuals(ours, *inputs), trace(ours, CPU)(*inputs)
    for mine, theirs in zip(
        [*made.skips, made.hidden_states], [*expected.skips, expected.hidden_states], strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("guess_mode", [False, True])
@torch.inference_mode()
def test_residuals_equal_those_of_diffusers_forward_pass(
    controlnet_pair: tuple[ControlNetModel, ControlNetModel], model: str, guess_mode: bool
) -> None:
    (theirs, ours), (text_width, pooled_width) = controlnet_pair, _WIDTHS[model]
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 9, 12, generator=generator)
    image = torch.rand(1, 3, 72, 96, generator=generator)
    prompt_embeds = torch.randn(2, 77, text_width, generator=generator)
    pooled = torch.randn(2, pooled_width, generator=generator)
    time_ids = torch.tensor([[72.0, 96.0, 0.0, 0.0, 72.0, 96.0]]).expand(2, -1)
    timesteps = torch.tensor([700.0, 3.0])
    skips, mid = theirs(
        latents,
        timesteps,
        encoder_hidden_states=prompt_embeds,
        controlnet_cond=image,
        conditioning_scale=0.7,
        guess_mode=guess_mode,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids} if pooled_width else None,
        return_dict=False,
    )
    conditions = Conditions(
        prompt=keys_values(ours, prompt_embeds),
        prompt_bias=torch.zeros(2, 1, 77),
        pooled_prompt_embeds=pooled,
        add_time_ids=time_ids,
    )
    scales = scales_of_layers(0.7, num_skips=len(skips), guess_mode=guess_mode)[:, None].expand(-1, 2)
    embedding = embed_control_image(ours, image).expand(2, -1, -1, -1)
    made = residuals(ours, latents, timesteps, conditions, embedding).scaled(scales)
    for mine, expected in zip([*made.skips, made.hidden_states], [*skips, mid], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_residuals_are_added_to_their_rows() -> None:
    encoded = Encoded(torch.zeros(3, 1, 1, 1), torch.zeros(3, 1), (torch.zeros(3, 1, 1, 1),))
    made = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    Residuals((made,), 2 * made).add_to(encoded, torch.tensor([2, 0]))
    assert encoded.hidden_states.flatten().tolist() == [6, 0, 2]
    assert encoded.skips[0].flatten().tolist() == [3, 0, 1]
