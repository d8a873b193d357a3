"""Models of two families in one engine, against the oracle on diffusers' own UNets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.adapters import Lora
from atelier.core.conditioning import Conditioning, Floats, Text
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import SamplerName, Sampling
from atelier.engine import sequential
from atelier.engine.engine import Engine
from atelier.families.family import family_of
from atelier.models.host import ModelHost
from atelier.models.loading import load_scheduler, load_unet
from tests.engines import new_engine, run_in_one_batch, run_together
from tests.loras import add_lora, write_lora
from tests.small_models import CPU
from tests.unit.engine.diffusers_schedulers import new_scheduler

_BOUND = 5e-4
_LORA = "style"


def _with_v_prediction(entry: ModelEntry, folder: Path) -> ModelEntry:
    assert entry.files.folder is not None
    for part in entry.files.folder.iterdir():
        if part.name != "scheduler":
            (folder / part.name).symlink_to(part)
    config = json.loads((entry.files.folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler").mkdir()
    config["prediction_type"] = "v_prediction"
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return entry.model_copy(update={"id": "small-sd15-v", "files": Files(folder=folder)})


@pytest.fixture(scope="module")
def served(two_families: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """small-sdxl, small-sd15, and small-sd15 again as a model that predicts v."""
    predicts_v = _with_v_prediction(two_families.model("small-sd15"), tmp_path_factory.mktemp("v"))
    return two_families.model_copy(update={"models": (*two_families.models, predicts_v), "controlnets": ()})


@pytest.fixture(scope="module")
def with_lora(served: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> tuple[UNet2DConditionModel, Path]:
    """diffusers' UNet of small-sd15 with a LoRA that peft applies, and the LoRA's file."""
    unet = load_unet(served.model("small-sd15"), CPU)
    add_lora(unet, _LORA, rank=4, targets="linear", seed=3)
    file = tmp_path_factory.mktemp("lora") / "style.safetensors"
    write_lora(_LORA, file, {"unet": unet})
    return unet, file


@pytest.fixture(scope="module")
def engine(served: Catalogue, with_lora: tuple[UNet2DConditionModel, Path]) -> Iterator[Engine]:
    engine = new_engine(served, find=lambda _: with_lora[1])
    yield engine
    engine.close()


def _request(
    catalogue: Catalogue, model: str, sampler: SamplerName = "euler", *, seed: int = 1, prompt: str = "a red circle"
) -> DenoiseRequest:
    entry = catalogue.model(model)
    texts = [Text(prompt, prompt), Text("blue", "blue")]
    positive, negative = family_of(entry.family).load_text_encoders(entry, CPU, ModelHost(CPU)).encode(texts)
    return DenoiseRequest(
        request_id=RequestId(f"req_{model}_{sampler}_{seed}"),
        pass_=Pass(
            model=model,
            size=Size(width=64, height=72),
            seeds=(seed,),
            sampling=Sampling(num_inference_steps=4, sampler=sampler),
            guidance_scale=3.0,
            guidance_rescale=0.3,
        ),
        conditioning=Conditioning(positive=positive, negative=negative),
    )


def _oracle(catalogue: Catalogue, request: DenoiseRequest, unet: UNet2DConditionModel | None = None) -> Floats:
    entry, sampling = catalogue.model(request.pass_.model), request.pass_.sampling
    config = load_scheduler(entry).config
    scheduler = new_scheduler(config, sampling.sampler, None, sampling.num_inference_steps)
    latents: Floats = sequential.denoise(unet or load_unet(entry, CPU), scheduler, request).numpy()
    return latents


def _is_near(ours: Floats, theirs: Floats) -> bool:
    return bool(np.linalg.norm(ours - theirs) <= _BOUND * np.linalg.norm(theirs))


def test_every_model_equals_the_oracle_beside_the_others(served: Catalogue, engine: Engine) -> None:
    requests = [
        _request(served, model, sampler)
        for model in ("small-sdxl", "small-sd15", "small-sd15-v")
        for sampler in ("euler", "dpmpp_2m", "ddim")
    ]
    for request, latents in zip(requests, run_together(engine, requests), strict=True):
        assert _is_near(latents, _oracle(served, request)), request.request_id


def test_the_prediction_type_decides_the_image(served: Catalogue, engine: Engine) -> None:
    epsilon, v = run_together(engine, [_request(served, model) for model in ("small-sd15", "small-sd15-v")])
    assert not _is_near(epsilon, v)


def test_bits_of_exact_requests_do_not_depend_on_company(served: Catalogue, engine: Engine) -> None:
    def exact(seed: int, prompt: str) -> DenoiseRequest:
        request = _request(served, "small-sd15", seed=seed, prompt=prompt)
        return replace(request, pass_=replace(request.pass_, reproducibility="exact"))

    mine, others = exact(1, "a red circle"), [exact(seed, "two green rings") for seed in (2, 3, 4)]
    [alone] = run_together(engine, [mine])
    together, *_ = run_in_one_batch(engine, _request(served, "small-sdxl"), [mine, *others])
    assert np.array_equal(alone, together)


def test_a_lora_changes_convolutions_around_the_transformers_as_in_peft(
    served: Catalogue, engine: Engine, with_lora: tuple[UNet2DConditionModel, Path]
) -> None:
    plain = _request(served, "small-sd15", seed=5)
    changed = replace(
        plain,
        request_id=RequestId("req_lora"),
        pass_=replace(plain.pass_, loras=(Lora(_LORA, 0.7),)),
    )
    without, ours = run_together(engine, [plain, changed])
    with_lora[0].set_adapters([_LORA], [0.7])
    theirs = _oracle(served, changed, with_lora[0])
    assert _is_near(ours, theirs)
    assert not _is_near(without, theirs)
