from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from atelier.core.conditioning import Conditioning, Floats, TextEmbeds
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest, InitImage, Pass, RequestId, StepEvent
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling


def _pass(**fields: Any) -> Pass:
    given = {
        "model": "m",
        "size": Size(width=40, height=24),
        "seeds": (1, 2),
        "sampling": Sampling(num_inference_steps=10),
        "guidance_scale": 5.0,
    }
    return Pass(**{**given, **fields})


def _floats(*shape: int) -> Floats:
    return np.zeros(shape, dtype=np.float32)


def _embeds(num_chunks: int) -> TextEmbeds:
    return TextEmbeds(prompt_embeds=_floats(77 * num_chunks, 6), pooled_prompt_embeds=_floats(4))


def _init_image(*shape: int) -> InitImage:
    return InitImage(mean=_floats(*shape), std=_floats(*shape))


def _request(pass_: Pass | None = None, **fields: Any) -> DenoiseRequest:
    conditioning = Conditioning(positive=_embeds(1), negative=_embeds(3))
    given = {"request_id": RequestId("r"), "pass_": pass_ or _pass(), "conditioning": conditioning}
    return DenoiseRequest(**{**given, **fields})


def test_a_pass_needs_a_seed() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        _pass(seeds=())


@pytest.mark.parametrize(("width", "height"), [(44, 24), (40, 28)])
def test_a_pass_draws_whole_latents(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="not a whole number of latents"):
        _pass(size=Size(width=width, height=height))


@pytest.mark.parametrize(("guidance_scale", "is_guided"), [(0, False), (1, False), (1.01, True), (5, True)])
def test_guidance_of_at_most_one_is_off(guidance_scale: float, is_guided: bool) -> None:
    assert _pass(guidance_scale=guidance_scale).is_guided is is_guided


def test_a_pass_is_fast_and_without_rescaling_by_default() -> None:
    assert (_pass().reproducibility, _pass().guidance_rescale) == ("fast", 0)


def test_work_is_pixels_times_taken_steps_times_images() -> None:
    assert _pass().pixel_steps == 40 * 24 * 10 * 2
    assert _pass(sampling=Sampling(num_inference_steps=10, strength=0.5)).pixel_steps == 40 * 24 * 5 * 2
    assert _pass(seeds=(1, 2, 3)).pixel_steps == 40 * 24 * 10 * 3


def test_mean_and_std_of_an_init_image_have_one_shape_of_four_dimensions() -> None:
    with pytest.raises(ValueError, match="not of one shape"):
        InitImage(mean=_floats(1, 4, 3, 5), std=_floats(1, 4, 5, 3))
    with pytest.raises(ValueError, match="not of one shape"):
        InitImage(mean=_floats(4, 3, 5), std=_floats(4, 3, 5))


def test_a_mask_has_the_height_and_width_of_its_latents() -> None:
    latents = _floats(1, 4, 3, 5)
    assert InitImage(mean=latents, std=latents, mask=_floats(3, 5)).mask is not None
    with pytest.raises(ValueError, match="does not fit latents"):
        InitImage(mean=latents, std=latents, mask=_floats(5, 3))


@pytest.mark.parametrize("num_images", [1, 2])
def test_an_init_image_serves_all_images_or_there_is_one_for_each(num_images: int) -> None:
    assert _request(init_image=_init_image(num_images, 4, 3, 5)).init_image is not None


@pytest.mark.parametrize("shape", [(3, 4, 3, 5), (1, 4, 5, 3), (1, 4, 3, 4), (1, 4, 4, 5)])
def test_an_init_image_that_does_not_fit_the_pass_is_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit 2 images of 40x24"):
        _request(init_image=_init_image(*shape))


def test_a_control_image_has_the_size_of_the_pass() -> None:
    def control(height: int, width: int) -> Control:
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        return Control(controlnet="c", control_image=pixels, controlnet_conditioning_scale=1)

    assert len(_request(controls=(control(24, 40),)).controls) == 1
    with pytest.raises(ValueError, match="24x40 does not fit images of 40x24"):
        _request(controls=(control(24, 40), control(40, 24)))


def test_guidance_doubles_the_rows_and_counts_the_longer_prompt() -> None:
    guided = _request()
    assert set(guided.embeds) == {"positive", "negative"}
    assert (guided.num_rows, guided.num_chunks) == (4, 3)


def test_without_guidance_the_negative_prompt_has_no_rows() -> None:
    unguided = _request(_pass(guidance_scale=1))
    assert set(unguided.embeds) == {"positive"}
    assert (unguided.num_rows, unguided.num_chunks) == (2, 1)


def test_a_request_reports_nothing_by_default() -> None:
    request = _request()
    assert (request.report_steps, request.num_previews, request.controls) == (False, 0, ())
    assert StepEvent(1, 2).preview is None
