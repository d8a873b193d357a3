"""Several models in one engine, on a budget that does not hold all of them."""

from __future__ import annotations

import math
import queue
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.conditioning import Floats
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.errors import ModelUnavailable
from atelier.core.sampling import Reproducibility
from atelier.engine.engine import Engine, StepReport
from atelier.engine.request import Event
from atelier.engine.runners import load_runners
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.memory import Memory
from atelier.models.sources import unet_source
from tests.engines import SETTINGS, WAIT_S, run_together
from tests.small_models import CPU

#: About the bytes that a row takes besides the weights, and a little more than two calls of `exact` requests take.
_ROW_BYTES, _BATCH_BYTES = 256_000, 2_200_000
_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def _variant(entry: ModelEntry, name: str, factor: float, folder: Path) -> ModelEntry:
    """Write a model whose UNet's last convolution is larger by a factor."""
    assert entry.files.folder is not None
    shutil.copytree(entry.files.folder, folder / name)
    tensors = load_file(folder / name / _WEIGHTS)
    tensors["conv_out.weight"] *= factor
    save_file(tensors, folder / name / _WEIGHTS)
    return entry.model_copy(update={"id": name, "files": Files(folder=folder / name)})


@pytest.fixture(scope="module")
def models(small_catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("models")
    entry = small_catalogue.model(None)
    return Catalogue(
        models=(entry, *(_variant(entry, name, factor, folder) for name, factor in (("half", 0.5), ("twice", 2.0))))
    )


def _engine(
    models: Catalogue, budget_bytes: float, *, observe: Callable[[StepReport], None] = lambda _: None
) -> tuple[Engine, ModelHost]:
    """An engine with a budget, and the host of its UNets."""
    placement = Placement("cpu", "float32", Memory(device_bytes=budget_bytes))
    host = ModelHost(placement)
    engine = Engine(
        lambda: load_runners(models.models, placement, find=models.model, host=host),
        SETTINGS,
        place="here",
        observe=observe,
    )
    return engine, host


def _unet_bytes(models: Catalogue) -> int:
    return unet_source(models.models[0], CPU).num_bytes()


def _requests(models: Catalogue, request: DenoiseRequest, reproducibility: Reproducibility) -> list[DenoiseRequest]:
    requests = []
    for index in range(9):
        entry = models.models[index % 3]
        pass_ = replace(request.pass_, model=entry.id, seeds=(index // 3,), reproducibility=reproducibility)
        requests.append(replace(request, request_id=RequestId(f"r{index}"), pass_=pass_))
    return requests


def _alone(models: Catalogue, request: DenoiseRequest) -> Floats:
    engine, _ = _engine(Catalogue(models=(models.model(request.pass_.model),)), math.inf)
    [latents] = run_together(engine, [request])
    engine.close()
    return latents


@pytest.fixture(scope="module")
def alone(models: Catalogue, request_: DenoiseRequest) -> list[Floats]:
    """The latents of the first three `exact` requests, one of each model, each in an engine of its own."""
    return [_alone(models, request) for request in _requests(models, request_, "exact")[:3]]


@pytest.mark.parametrize("num_models", [1, 1.5, 2])
def test_models_that_take_turns_in_memory_give_the_bits_they_give_alone(
    models: Catalogue, request_: DenoiseRequest, alone: list[Floats], num_models: float
) -> None:
    budget_bytes = num_models * _unet_bytes(models) + _BATCH_BYTES
    engine, host = _engine(models, budget_bytes)
    requests = _requests(models, request_, "exact")
    together = run_together(engine, requests)
    engine.close()
    for latents, expected in zip(together[:3], alone, strict=True):
        assert np.array_equal(latents, expected)
    assert not np.array_equal(together[0], together[1])
    num_brought = host.status().num_brought
    assert num_brought > 3, "all fitted at once"
    assert num_brought <= 6, "a model left before its requests had ended"
    assert host.status().peak_device_bytes <= budget_bytes


def test_a_model_is_loaded_when_the_first_request_names_it(models: Catalogue, request_: DenoiseRequest) -> None:
    lazy = Catalogue(models=tuple(entry.model_copy(update={"preload": False}) for entry in models.models))
    engine, host = _engine(lazy, math.inf)
    assert host.status().resident == ()
    [request, *_] = _requests(lazy, request_, "exact")
    [latents] = run_together(engine, [request])
    assert host.status().resident == ("small-sdxl/unet",)
    assert engine.origin().weights.keys() == {"small-sdxl/unet"}
    engine.close()
    assert np.array_equal(latents, _alone(models, request))


def test_a_model_that_cannot_be_loaded_fails_its_requests_and_no_others(
    models: Catalogue, request_: DenoiseRequest, tmp_path: Path
) -> None:
    first, *_ = models.models
    broken = first.model_copy(update={"id": "broken", "files": Files(folder=tmp_path), "preload": False})
    engine, _ = _engine(Catalogue(models=(first, broken)), math.inf)
    [request, *_] = _requests(models, request_, "fast")
    failed: queue.Queue[Event] = queue.Queue()
    of_broken = replace(request, request_id=RequestId("broken"), pass_=replace(request.pass_, model="broken"))
    engine.submit(of_broken, failed.put)
    run_together(engine, [request])
    error = failed.get(timeout=WAIT_S)
    assert isinstance(error, ModelUnavailable)
    assert "'broken'" in error.message
    engine.close()


def test_a_budget_without_room_for_a_model_is_refused_at_the_start(models: Catalogue) -> None:
    with pytest.raises(ModelUnavailable, match="Raise `memory_gib`"):
        _engine(models, _unet_bytes(models) / 2)


def test_batches_are_no_larger_than_memory_allows(models: Catalogue, request_: DenoiseRequest) -> None:
    """Eight requests of two rows each; beside one UNet there is room for a little more than two of them."""
    reports: list[StepReport] = []
    [request, *_] = _requests(models, request_, "fast")
    requests = [replace(request, request_id=RequestId(f"r{index}")) for index in range(8)]
    budget_bytes = _unet_bytes(models) + 4.5 * _ROW_BYTES
    engine, host = _engine(models, budget_bytes, observe=reports.append)
    assert len(run_together(engine, requests)) == 8
    engine.close()
    assert max(report.num_rows for report in reports) == 4
    assert host.status().peak_device_bytes <= budget_bytes


def test_an_exclusive_model_is_alone_in_memory_and_draws_the_same(
    models: Catalogue, request_: DenoiseRequest
) -> None:
    first, *others = models.models
    entries = (first.model_copy(update={"exclusive": True}), *others)
    engine, host = _engine(Catalogue(models=entries), math.inf)
    requests = _requests(models, request_, "exact")
    together = run_together(engine, requests)
    assert host.status().num_brought <= 3 + 6
    [latents] = run_together(engine, requests[:1])
    assert host.status().resident == ("small-sdxl/unet",)
    engine.close()
    assert np.array_equal(latents, together[0])
    assert np.array_equal(latents, _alone(models, requests[0]))


def test_a_model_that_the_engine_does_not_support_is_refused_each_time(
    models: Catalogue, request_: DenoiseRequest
) -> None:
    first, *_ = models.models
    wrong = first.model_copy(update={"id": "wrong", "family": "sd15", "preload": False})
    engine, host = _engine(Catalogue(models=(first, wrong)), math.inf)
    [request, *_] = _requests(models, request_, "fast")
    of_wrong = replace(request, pass_=replace(request.pass_, model="wrong"))
    for _ in range(2):
        ended: queue.Queue[Event] = queue.Queue()
        engine.submit(of_wrong, ended.put)
        error = ended.get(timeout=WAIT_S)
        assert isinstance(error, ModelUnavailable)
        assert "Model 'wrong': its addition_embed_type is 'text_time'" in error.message
    assert host.status().device_bytes <= 2 * _unet_bytes(models)
    engine.close()


def test_a_model_whose_files_come_later_is_loaded_at_the_next_request(
    models: Catalogue, request_: DenoiseRequest, tmp_path: Path
) -> None:
    first, *_ = models.models
    assert first.files.folder is not None
    late = first.model_copy(update={"id": "late", "files": Files(folder=tmp_path / "late"), "preload": False})
    engine, _ = _engine(Catalogue(models=(first, late)), math.inf)
    [request, *_] = _requests(models, request_, "exact")
    of_late = replace(request, pass_=replace(request.pass_, model="late"))
    failed: queue.Queue[Event] = queue.Queue()
    engine.submit(of_late, failed.put)
    assert isinstance(failed.get(timeout=WAIT_S), ModelUnavailable)
    shutil.copytree(first.files.folder, tmp_path / "late")
    [latents] = run_together(engine, [of_late])
    engine.close()
    assert np.array_equal(latents, _alone(models, request))
