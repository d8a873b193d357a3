"""Admission of a request: the random numbers that it draws before its first step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning
from atelier.core.denoising import InitImage
from atelier.core.errors import ModelUnavailable
from atelier.engine.request import Submitted
from atelier.engine.runner import Runner
from atelier.engine.runners import load_runners
from tests.small_models import CPU, POOLED_WIDTH, TEXT_WIDTHS
from tests.unit.engine.requests import new_embeds, new_request


@pytest.fixture(scope="module")
def runner(small_catalogue: Catalogue) -> Runner:
    return load_runners([small_catalogue.model(None)], CPU).runner("small-sdxl")


@pytest.mark.parametrize(
    ("model", "edits", "message"),
    [
        ("small-sdxl-edit", False, "reads 8 channels; a model without `edits` in the catalogue reads 4"),
        ("small-sd15-edit", False, "reads 8 channels; a model without `edits` in the catalogue reads 4"),
        ("small-sdxl", True, "reads 4 channels; a model that edits images reads 8"),
    ],
)
def test_a_unet_that_reads_other_channels_than_its_entry_says_is_refused(
    edit_catalogue: Catalogue, model: str, edits: bool, message: str
) -> None:
    entry = edit_catalogue.model(model).model_copy(update={"edits": edits})
    with pytest.raises(ModelUnavailable, match=f"Model '{model}': its UNet {message}"):
        load_runners([entry], CPU).runner(model)


@pytest.mark.parametrize(
    ("mask", "num_draws"), [(None, 2), (np.ones((8, 12), np.float32), 3)], ids=["image-to-image", "inpainting"]
)
def test_images_draw_as_often_as_in_diffusers(
    runner: Runner, mask: np.ndarray[tuple[int, int], np.dtype[np.float32]] | None, num_draws: int
) -> None:
    """The posterior and the noise; inpainting draws the posterior of the masked image, too."""
    mean, std = np.zeros((1, 4, 8, 12), np.float32), np.ones((1, 4, 8, 12), np.float32)
    embeds = new_embeds(width=sum(TEXT_WIDTHS), pooled_width=POOLED_WIDTH)
    request = replace(
        new_request(),
        conditioning=Conditioning(positive=embeds, negative=None),
        init_image=InitImage(mean=mean, std=std, mask=mask),
    )
    admitted = runner.begin(Submitted(request, emit=lambda _: None))
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_draws):
        torch.randn((1, 4, 8, 12), generator=generator)
    [ours] = admitted.generators
    assert torch.equal(ours.get_state(), generator.get_state())
