"""LoRAs in the engine, against peft's own forward on diffusers' UNet."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from atelier.catalogue.catalogue import Catalogue
from atelier.core.adapters import Lora, in_order
from atelier.core.conditioning import Floats
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.errors import AdapterInvalid, ModelNotFound
from atelier.core.sampling import Reproducibility, Sampling
from atelier.engine import sequential
from atelier.engine.engine import Engine, StepReport
from atelier.engine.request import Event
from atelier.families.family import Adapter
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.reading import read_adapter
from atelier.models.loading import load_scheduler, load_unet
from tests.engines import held_at_first_step, new_engine, run_in_one_batch, run_together
from tests.loras import add_lora, write_lora
from tests.small_models import CPU

_BOUND = 5e-4
_WAIT_S = 60
#: Ranks and layers of the LoRAs.
_LORAS = {
    "a": (8, "attention"),
    "b": (4, "linear"),
    "c": (16, "all"),
    "d": (2, "all"),
    "e": (32, "attention"),
}


class Loras:
    """LoRAs of the small model, as files and in diffusers' UNet."""

    def __init__(self, catalogue: Catalogue, folder: Path) -> None:
        self._entry = catalogue.model(None)
        self.files = {name: folder / f"{name}.safetensors" for name in _LORAS}
        self._unet: UNet2DConditionModel = load_unet(self._entry, CPU)
        for seed, (name, (rank, targets)) in enumerate(_LORAS.items()):
            add_lora(self._unet, name, rank=rank, targets=targets, seed=seed)
            write_lora(name, self.files[name], {"unet": self._unet})

    def oracle(self, request: DenoiseRequest) -> Floats:
        """The latents of a request, by diffusers and peft."""
        weights = {lora.id: lora.weight for lora in request.pass_.loras}
        if weights:
            self._unet.enable_adapters()
            self._unet.set_adapters(list(weights), list(weights.values()))
        else:
            self._unet.disable_adapters()
        scheduler = load_scheduler(self._entry)
        scheduler.set_timesteps(request.pass_.sampling.num_inference_steps)
        return sequential.denoise(self._unet, scheduler, request).numpy()

    def find(self, name: str) -> Path:
        if name not in self.files:
            raise ModelNotFound(f"no LoRA {name}")
        return self.files[name]


@pytest.fixture(scope="module")
def loras(small_catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Loras:
    return Loras(small_catalogue, tmp_path_factory.mktemp("loras"))


@pytest.fixture
def engine(small_catalogue: Catalogue, loras: Loras, reports: list[StepReport]) -> Iterator[Engine]:
    engine = new_engine(small_catalogue.only(["small-sdxl"]), max_rows=100, observe=reports.append, find=loras.find)
    yield engine
    engine.close()


def _with(
    request: DenoiseRequest,
    weights: Mapping[str, float],
    *,
    name: str = "req_a",
    seed: int = 1,
    reproducibility: Reproducibility = "fast",
) -> DenoiseRequest:
    pass_ = replace(
        request.pass_,
        loras=in_order(Lora(id, weight) for id, weight in weights.items()),
        sampling=Sampling(num_inference_steps=4),
        seeds=(seed,),
        reproducibility=reproducibility,
    )
    return replace(request, request_id=RequestId(name), pass_=pass_)


def _distance(ours: Floats, theirs: Floats) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"c": 0.7}, {"d": -1.5}, {"a": 0.5, "b": 1.0, "c": 0.8}])
def test_latents_are_those_of_peft(
    engine: Engine, loras: Loras, request_: DenoiseRequest, weights: Mapping[str, float]
) -> None:
    request = _with(request_, weights)
    [ours] = run_together(engine, [request])
    assert _distance(ours, loras.oracle(request)) < _BOUND
    assert _distance(ours, loras.oracle(_with(request_, {}))) > 0.02


#: Eight requests with different LoRAs, some with several, one with none.
_EIGHT: Sequence[Mapping[str, float]] = [
    {"a": 1.0},
    {"b": 0.8},
    {"c": 1.0},
    {"d": -0.5},
    {"e": 1.2},
    {"a": 0.3, "b": 0.3, "e": 0.3},
    {"a": -1.0, "c": 0.5, "d": 0.5},
    {},
]


def test_eight_different_loras_in_one_batch_are_those_of_peft(
    engine: Engine, loras: Loras, request_: DenoiseRequest, reports: list[StepReport]
) -> None:
    requests = [_with(request_, weights, name=f"req_{index}", seed=index) for index, weights in enumerate(_EIGHT)]
    together = run_in_one_batch(engine, request_, requests)
    assert max(report.num_requests for report in reports) == len(_EIGHT) + 1
    for request, latents in zip(requests, together, strict=True):
        assert _distance(latents, loras.oracle(request)) < _BOUND, request.pass_.loras


def test_exact_requests_have_the_same_bits_beside_any_others(
    engine: Engine, loras: Loras, request_: DenoiseRequest
) -> None:
    requests = [
        _with(request_, weights, name=f"req_{index}", seed=index, reproducibility="exact")
        for index, weights in enumerate([*_EIGHT, {"a": 0.2}, {"a": 0.3, "b": 0.1, "e": 0.3}])
    ]
    together = run_in_one_batch(engine, request_, requests)
    for request, latents in zip(requests, together, strict=True):
        [alone] = run_together(engine, [request])
        assert np.array_equal(latents, alone), request.pass_.loras
        assert _distance(latents, loras.oracle(request)) < _BOUND


def test_a_plain_request_beside_loras_has_its_own_latents(
    engine: Engine, loras: Loras, request_: DenoiseRequest
) -> None:
    requests = [_with(request_, {}, name="plain"), _with(request_, {"c": 1.0}, name="other")]
    plain, _ = run_in_one_batch(engine, request_, requests)
    assert _distance(plain, loras.oracle(requests[0])) < _BOUND


def test_a_poisoned_lora_fails_its_own_request_only(
    engine: Engine, loras: Loras, request_: DenoiseRequest, tmp_path: Path
) -> None:
    loras.files["poisoned"] = tmp_path / "poisoned.safetensors"
    tensors = load_file(loras.files["a"])
    tensors[next(iter(tensors))][0, 0] = float("nan")
    save_file(tensors, loras.files["poisoned"])
    bad, good = (queue.Queue[Event]() for _ in range(2))
    with held_at_first_step(engine, replace(request_, request_id=RequestId("first"))):
        engine.submit(_with(request_, {"a": 1.0, "poisoned": 1.0}, name="bad"), bad.put)
        engine.submit(_with(request_, {"a": 1.0}, name="good"), good.put)
    failure, latents = bad.get(timeout=_WAIT_S), good.get(timeout=_WAIT_S)
    assert isinstance(failure, AdapterInvalid)
    assert "poisoned" in str(failure)
    assert "finite" in str(failure)
    assert isinstance(latents, Denoised)
    assert _distance(latents.latents, loras.oracle(_with(request_, {"a": 1.0}))) < _BOUND


def test_an_unknown_lora_fails_its_own_request(engine: Engine, request_: DenoiseRequest) -> None:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(_with(request_, {"unknown": 1.0}), events.put)
    failure = events.get(timeout=_WAIT_S)
    assert isinstance(failure, ModelNotFound)
    assert "no LoRA unknown" in str(failure)


def test_a_lora_that_loads_slowly_delays_no_other_request(
    small_catalogue: Catalogue, loras: Loras, request_: DenoiseRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(file: Path, *, name: str, modules: Mapping[Part, torch.nn.Module]) -> Adapter:
        if file == loras.files["b"]:
            go_on.wait(_WAIT_S)
        return read_adapter(file, name=name, modules=modules)

    monkeypatch.setattr("atelier.families.unet.adapters.loaded.read_adapter", slow)
    engine = new_engine(small_catalogue.only(["small-sdxl"]), find=loras.find)
    waiting: queue.Queue[Event] = queue.Queue()
    engine.submit(_with(request_, {"b": 1.0}, name="slow"), waiting.put)
    for weights in ({}, {"a": 1.0}, {"c": 1.0}):
        run_together(engine, [_with(request_, weights)])
    assert waiting.empty()
    assert engine.status().num_waiting == 1
    go_on.set()
    event = waiting.get(timeout=_WAIT_S)
    assert isinstance(event, Denoised)
    assert _distance(event.latents, loras.oracle(_with(request_, {"b": 1.0}))) < _BOUND
    engine.close()


def test_results_name_the_weights_of_their_loras(engine: Engine, request_: DenoiseRequest) -> None:
    hashes = []
    for weights in ({"a": 1.0}, {"a": 0.5, "b": 1.0}):
        events: queue.Queue[Event] = queue.Queue()
        engine.submit(_with(request_, weights), events.put)
        event = events.get(timeout=_WAIT_S)
        assert isinstance(event, Denoised)
        hashes.append({name: value for name, value in event.origin.weights.items() if name[:2] in ("a/", "b/")})
    assert list(hashes[0]) == ["a/unet"]
    assert list(hashes[1]) == ["a/unet", "b/unet"]
    assert hashes[0]["a/unet"] == hashes[1]["a/unet"] != hashes[1]["b/unet"]


def test_another_file_in_a_loras_place_is_another_lora(
    engine: Engine, loras: Loras, request_: DenoiseRequest, tmp_path: Path
) -> None:
    loras.files["moving"] = tmp_path / "moving.safetensors"
    request = _with(request_, {"moving": 1.0})
    latents = []
    for source in ("a", "e"):
        loras.files["moving"].write_bytes(loras.files[source].read_bytes())
        latents += run_together(engine, [request])
    for ours, source in zip(latents, ("a", "e"), strict=True):
        assert _distance(ours, loras.oracle(_with(request_, {source: 1.0}))) < _BOUND


def test_loras_of_a_high_rank_count_as_more_rows(
    small_catalogue: Catalogue, loras: Loras, request_: DenoiseRequest, tmp_path: Path, reports: list[StepReport]
) -> None:
    """Rows of 96×64 count 1.5 each, so two of them and two more fit into 6 rows; with a rank of 200 they do not."""
    unet = load_unet(small_catalogue.model(None), CPU)
    loras.files["wide"] = tmp_path / "wide.safetensors"
    add_lora(unet, "wide", rank=200, targets="attention", seed=9)
    write_lora("wide", loras.files["wide"], {"unet": unet})
    engine = new_engine(small_catalogue.only(["small-sdxl"]), max_rows=6, observe=reports.append, find=loras.find)
    for weights, together in (({"a": 0.1}, 1), ({"wide": 0.1}, 1), ({}, 2)):
        run_together(engine, [_with(request_, weights)])
        del reports[:]
        run_in_one_batch(engine, request_, [_with(request_, weights)])
        assert max(report.num_running for report in reports) == together, weights
    engine.close()
