"""The engine against its oracle on the zoo's model: every sampler, alone and with all the others in one batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.conditioning import Conditioning, Text
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import SamplerName, Sampling
from atelier.engine import sequential
from atelier.engine.engine import Engine
from atelier.engine.runners import load_runners
from atelier.families.family import family_of
from atelier.models.host import ModelHost
from atelier.models.loading import load_scheduler, load_unet
from tests.engines import SETTINGS, run_together
from tests.small_models import CPU
from tests.unit.engine.diffusers_schedulers import SCHEDULES_OF, new_scheduler

_BOUND = 5e-4


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def entry(
    request: pytest.FixtureRequest, catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory
) -> ModelEntry:
    """The zoo's model, with `prediction_type` set to epsilon or v_prediction."""
    entry = catalogue.model(None)
    assert entry.files.folder is not None
    folder: Path = tmp_path_factory.mktemp("model")
    for part in entry.files.folder.iterdir():
        if part.name != "scheduler":
            (folder / part.name).symlink_to(part)
    config = json.loads((entry.files.folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**config, "prediction_type": request.param})
    )
    return entry.model_copy(update={"files": Files(folder=folder)})


@pytest.fixture(scope="module")
def conditioning(entry: ModelEntry) -> Conditioning:
    texts = [Text("a red circle", "a red circle"), Text("blue", "blue")]
    positive, negative = family_of("sdxl").load_text_encoders(entry, CPU, ModelHost(CPU)).encode(texts)
    return Conditioning(positive=positive, negative=negative)


def _request(
    entry: ModelEntry,
    conditioning: Conditioning,
    sampler: SamplerName,
    num_inference_steps: int,
) -> DenoiseRequest:
    return DenoiseRequest(
        request_id=RequestId(f"req_{sampler}_{num_inference_steps}"),
        pass_=Pass(
            model=entry.id,
            size=Size(width=64, height=64),
            seeds=(num_inference_steps,),
            sampling=Sampling(
                num_inference_steps=num_inference_steps,
                sampler=sampler,
                eta=0.5 if sampler == "ddim" else 0.0,
            ),
            guidance_scale=3.0,
            guidance_rescale=0.3,
        ),
        conditioning=conditioning,
    )


def _check(entry: ModelEntry, requests: Sequence[DenoiseRequest]) -> None:
    """Each request gives the oracle's latents, alone and with all others in one batch."""
    engine = Engine(lambda: load_runners([entry], CPU), SETTINGS, place="here")
    unet: UNet2DConditionModel = load_unet(entry, CPU)
    config = load_scheduler(entry).config
    for request, together in zip(requests, run_together(engine, requests), strict=True):
        sampling = request.pass_.sampling
        scheduler = new_scheduler(config, sampling.sampler, sampling.schedule, sampling.num_inference_steps)
        oracle = sequential.denoise(unet, scheduler, request).numpy()
        [alone] = run_together(engine, [request])
        for latents in (alone, together):
            assert np.linalg.norm(latents - oracle) <= _BOUND * np.linalg.norm(oracle), sampling
    engine.close()


@pytest.mark.parametrize("num_inference_steps", [8, 20, pytest.param(31, marks=pytest.mark.long)])
def test_every_sampler_equals_the_oracle_alone_and_in_company(
    entry: ModelEntry, conditioning: Conditioning, num_inference_steps: int
) -> None:
    _check(
        entry,
        [_request(entry, conditioning, sampler, num_inference_steps) for sampler in SCHEDULES_OF],
    )
