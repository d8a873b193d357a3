"""The engine against its oracle: every sampler and schedule, alone and with others in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Conditioning, Text
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import SamplerName, Sampling, ScheduleName
from atelier.engine import sequential
from atelier.engine.engine import Engine
from atelier.engine.runners import load_runners
from atelier.families.sdxl.text import TextEncoders
from atelier.models.loading import load_scheduler, load_unet
from tests.engines import SETTINGS, run_together
from tests.small_models import CPU
from tests.unit.engine.diffusers_schedulers import EVERY, SCHEDULES_OF, new_scheduler

_BOUND = 5e-4


#: Fields of an entry, by what its UNet predicts.
_PREDICTIONS: dict[str, dict[str, object]] = {
    "epsilon": {"prediction_type": "epsilon"},
    "v_prediction": {"prediction_type": "v_prediction"},
    "zero_terminal_snr": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
}


@pytest.fixture(
    scope="module",
    params=[name if name == "epsilon" else pytest.param(name, marks=pytest.mark.slow) for name in _PREDICTIONS],
)
def entry(request: pytest.FixtureRequest, small_catalogue: Catalogue) -> ModelEntry:
    """The small model, with each kind of prediction."""
    return small_catalogue.model(None).model_copy(update=_PREDICTIONS[request.param])


@pytest.fixture(scope="module")
def conditioning(entry: ModelEntry) -> Conditioning:
    texts = [Text("a red circle", "a red circle"), Text("blue", "blue")]
    positive, negative = TextEncoders(entry, CPU).encode(texts)
    return Conditioning(positive=positive, negative=negative)


def _request(
    conditioning: Conditioning, sampler: SamplerName, schedule: ScheduleName | None, num_inference_steps: int
) -> DenoiseRequest:
    return DenoiseRequest(
        request_id=RequestId(f"req_{sampler}_{schedule}_{num_inference_steps}"),
        pass_=Pass(
            model="small-sdxl",
            size=Size(width=64, height=72),
            seeds=(num_inference_steps,),
            sampling=Sampling(
                num_inference_steps=num_inference_steps,
                sampler=sampler,
                schedule=schedule,
                eta=0.5 if sampler == "ddim" else 0.0,
            ),
            guidance_scale=3.0,
            guidance_rescale=0.3,
        ),
        conditioning=conditioning,
    )


@pytest.fixture(scope="module")
def engine(entry: ModelEntry) -> Iterator[Engine]:
    engine = Engine(lambda: load_runners([entry], CPU), SETTINGS, place="here")
    yield engine
    engine.close()


def _check(engine: Engine, entry: ModelEntry, requests: list[DenoiseRequest]) -> None:
    """Every request gives the oracle's latents, alone and in one batch with the others."""
    unet, config = load_unet(entry, CPU), load_scheduler(entry).config
    for request, together in zip(requests, run_together(engine, requests), strict=True):
        sampling = request.pass_.sampling
        scheduler = new_scheduler(config, sampling.sampler, sampling.schedule, sampling.num_inference_steps)
        oracle = sequential.denoise(unet, scheduler, request).numpy()
        [alone] = run_together(engine, [request])
        for latents in (alone, together):
            assert np.linalg.norm(latents - oracle) <= _BOUND * np.linalg.norm(oracle), request.pass_


@pytest.mark.parametrize(
    "num_inference_steps",
    [
        4,
        *(pytest.param(steps, marks=pytest.mark.slow) for steps in (8, 20)),
        pytest.param(31, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_every_sampler_equals_the_oracle(
    engine: Engine, entry: ModelEntry, conditioning: Conditioning, num_inference_steps: int
) -> None:
    _check(engine, entry, [_request(conditioning, sampler, None, num_inference_steps) for sampler in SCHEDULES_OF])


@pytest.mark.slow
def test_every_schedule_equals_the_oracle(engine: Engine, entry: ModelEntry, conditioning: Conditioning) -> None:
    _check(engine, entry, [_request(conditioning, sampler, schedule, 4) for sampler, schedule in EVERY])


@pytest.mark.slow
@pytest.mark.parametrize("negative", ["blue", None])
@pytest.mark.parametrize(("guidance_scale", "guidance_rescale"), [(1.0, 0.0), (1.0, 0.7), (4.0, 0.0), (4.0, 0.7)])
def test_guidance_equals_the_oracle(
    engine: Engine,
    entry: ModelEntry,
    conditioning: Conditioning,
    negative: str | None,
    guidance_scale: float,
    guidance_rescale: float,
) -> None:
    request = _request(replace(conditioning, negative=conditioning.negative if negative else None), "euler", None, 4)
    pass_ = replace(request.pass_, guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, seeds=(1, 2))
    _check(engine, entry, [replace(request, pass_=pass_)])
