"""Latents of requests in random batches compared with those of the requests alone.

They are near each other at `fast` and equal to the bit at `exact`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, Text, TextEmbeds
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.sampling import SAMPLERS, Reproducibility, Sampling
from atelier.engine.engine import Engine
from atelier.families.sdxl.text import TextEncoders
from atelier.models.autoencoder import Autoencoder
from tests.local_stages import CPU, new_engine, run_together

_PROMPTS = ("a red circle", "two blue rings on the left " * 20, "a yellow star, black background", "")
#: Largest difference between latents, relative to the largest latent of the request alone.
_FAST = 5e-4
_MIN_PSNR_DB = 70.0

#: Failing examples are not shrunk, because a mix is slow to run.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_settings = settings(
    deadline=None, max_examples=4, phases=_PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def embeds(catalogue: Catalogue) -> list[TextEmbeds]:
    encoders = TextEncoders(catalogue.model(None), CPU)
    return [encoders.encode([Text(prompt, prompt)])[0] for prompt in _PROMPTS]


@pytest.fixture(scope="module")
def engine(catalogue: Catalogue) -> Iterator[Engine]:
    engine = new_engine(catalogue, max_rows=64)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def replica(catalogue: Catalogue) -> Iterator[Engine]:
    """An engine with the same settings, but its own modules and thread."""
    engine = new_engine(catalogue, max_rows=64)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def autoencoder(catalogue: Catalogue) -> Autoencoder:
    return Autoencoder(catalogue.model(None), CPU)


@st.composite
def _sampling(draw: st.DrawFn) -> Sampling:
    sampler = draw(st.sampled_from(list(SAMPLERS)))
    rules = SAMPLERS[sampler]
    return Sampling(
        num_inference_steps=draw(st.integers(1, 8)),
        sampler=sampler,
        schedule=draw(st.sampled_from([None, *rules.schedules])),
        eta=draw(st.sampled_from([0.0, 0.7])) if rules.takes_eta else 0.0,
    )


@st.composite
def _controls(draw: st.DrawFn, height: int, width: int) -> tuple[Control, ...]:
    """Random controls of a request: none for most requests, otherwise one or two."""
    noise = np.random.default_rng(draw(st.integers(0, 2))).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return tuple(
        Control(
            controlnet=draw(st.sampled_from(["tiny-canny", "tiny-depth"])),
            control_image=noise,
            controlnet_conditioning_scale=draw(st.sampled_from([0.3, 1.0])),
            control_guidance_start=draw(st.sampled_from([0.0, 0.3])),
            control_guidance_end=draw(st.sampled_from([0.6, 1.0])),
            guess_mode=draw(st.booleans()),
        )
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])))
    )


@st.composite
def _mix(draw: st.DrawFn, reproducibility: Reproducibility) -> list[tuple[DenoiseRequest, tuple[int, int | None]]]:
    """Sixteen random requests, each with the indices of its positive and negative prompt in `_PROMPTS`."""
    heights = [draw(st.sampled_from([64, 72])) for _ in range(16)]
    return [
        (
            DenoiseRequest(
                request_id=RequestId(f"req_{index}"),
                model="tiny-sdxl",
                height=height,
                width=64,
                controls=draw(_controls(height, 64)),
                seeds=tuple(range(index, index + draw(st.integers(1, 2)))),
                sampling=draw(_sampling()),
                guidance_scale=draw(st.sampled_from([1.0, 2.5, 7.0])),
                guidance_rescale=draw(st.sampled_from([0.0, 0.0, 0.6])),
                conditioning=_NO_CONDITIONING,
                reproducibility=reproducibility,
            ),
            (draw(st.integers(0, 3)), draw(st.sampled_from([None, 0, 1, 3]))),
        )
        for index, height in enumerate(heights)
    ]


_NO_CONDITIONING = Conditioning(
    positive=TextEmbeds(prompt_embeds=np.zeros((0, 0), np.float32), pooled_prompt_embeds=np.zeros(0, np.float32)),
    negative=None,
)


def _with_prompts(
    mix: Sequence[tuple[DenoiseRequest, tuple[int, int | None]]], embeds: Sequence[TextEmbeds]
) -> list[DenoiseRequest]:
    return [
        replace(
            request,
            conditioning=Conditioning(
                positive=embeds[positive], negative=None if negative is None else embeds[negative]
            ),
        )
        for request, (positive, negative) in mix
    ]


def _psnr_db(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> float:
    mse = float(np.square(ours.astype(float) - theirs.astype(float)).mean())
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse)


@given(mix=_mix("fast"))
@_settings
def test_fast_latents_are_near_those_of_the_request_alone(
    engine: Engine,
    autoencoder: Autoencoder,
    embeds: list[TextEmbeds],
    mix: list[tuple[DenoiseRequest, tuple[int, int | None]]],
) -> None:
    requests = _with_prompts(mix, embeds)
    for request, together in zip(requests, run_together(engine, requests), strict=True):
        [alone] = run_together(engine, [request])
        assert np.abs(together - alone).max() <= _FAST * np.abs(alone).max(), request.sampling
        assert _psnr_db(autoencoder.decode(together), autoencoder.decode(alone)) >= _MIN_PSNR_DB


@given(mix=_mix("exact"), order=st.permutations(range(16)))
@_settings
def test_exact_latents_do_not_depend_on_other_requests_or_the_replica(
    engine: Engine,
    replica: Engine,
    embeds: list[TextEmbeds],
    mix: list[tuple[DenoiseRequest, tuple[int, int | None]]],
    order: list[int],
) -> None:
    requests = _with_prompts(mix, embeds)
    together = run_together(engine, requests)
    shuffled = dict(zip(order, run_together(replica, [requests[index] for index in order]), strict=True))
    for index in order[:6]:
        [alone] = run_together(replica, [requests[index]])
        assert np.array_equal(together[index], alone), requests[index].sampling
        assert np.array_equal(shuffled[index], alone)
