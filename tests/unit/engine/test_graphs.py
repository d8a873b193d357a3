"""An engine whose UNet runs as graphs makes the latents of one without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.geometry import Size
from atelier.engine.engine import Engine
from atelier.models.hashes import place_hash
from tests.engines import new_engine, run_together
from tests.graphs import Captured
from tests.small_models import CPU

_GRAPHED = replace(CPU, uses_graphs=True)


@pytest.fixture
def asked(request_: DenoiseRequest) -> DenoiseRequest:
    """A request of the default size, for which graphs are made at start."""
    return replace(request_, pass_=replace(request_.pass_, size=Size(width=64, height=64)))


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Captured:
    captured = Captured()
    monkeypatch.setattr("atelier.families.unet.graphs.cuda_graph", captured)
    return captured


@pytest.fixture
def engine(small_catalogue: Catalogue, captured: Captured) -> Iterator[Engine]:  # noqa: ARG001 it is used inside
    engine = new_engine(small_catalogue.only(["small-sdxl"]), placement=_GRAPHED)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(small_catalogue: Catalogue) -> Iterator[Engine]:
    engine = new_engine(small_catalogue.only(["small-sdxl"]))
    yield engine
    engine.close()


def test_all_graphs_of_the_default_size_are_there_before_the_first_request(
    engine: Engine, captured: Captured, asked: DenoiseRequest
) -> None:
    num_captured = captured.num_captured
    assert num_captured > 0
    run_together(engine, [asked])
    assert captured.num_captured == num_captured


def test_every_model_of_an_architecture_has_its_graphs_before_its_first_step(
    small_catalogue: Catalogue, captured: Captured, asked: DenoiseRequest
) -> None:
    model = small_catalogue.model("small-sdxl")
    catalogue = Catalogue(models=(model, model.model_copy(update={"id": "another"})))
    engine = new_engine(catalogue, placement=_GRAPHED)
    try:
        before = captured.num_captured
        run_together(engine, [asked])
        assert captured.num_captured == before
        num_runs = captured.num_runs
        run_together(engine, [replace(asked, pass_=replace(asked.pass_, model="another"))])
        assert captured.num_runs - num_runs == 2 * asked.pass_.sampling.num_taken_steps
    finally:
        engine.close()


def test_latents_are_those_without_graphs(
    engine: Engine, plain: Engine, captured: Captured, asked: DenoiseRequest
) -> None:
    requests = [
        replace(asked, request_id=RequestId(f"req_{seed}"), pass_=replace(asked.pass_, seeds=(seed,)))
        for seed in range(5)
    ]
    before = captured.num_runs
    for ours, theirs in zip(run_together(engine, requests), run_together(plain, requests), strict=True):
        assert np.abs(ours - theirs).max() < 5e-4 * np.abs(theirs).max()
    assert captured.num_runs > before


def test_exact_latents_have_the_same_bits_alone_and_together(engine: Engine, asked: DenoiseRequest) -> None:
    exact = replace(asked, pass_=replace(asked.pass_, reproducibility="exact"))
    others = [replace(exact, request_id=RequestId(f"req_{number}")) for number in range(3)]
    [alone] = run_together(engine, [exact])
    assert all((latents == alone).all() for latents in run_together(engine, others))


def test_weights_that_were_unloaded_come_back_without_the_old_graphs(
    engine: Engine, plain: Engine, captured: Captured, asked: DenoiseRequest
) -> None:
    run_together(engine, [asked])
    assert not engine.unload_model("small-sdxl")
    before = captured.num_runs
    [ours], [theirs] = (run_together(one, [asked]) for one in (engine, plain))
    assert np.abs(ours - theirs).max() < 5e-4 * np.abs(theirs).max()
    assert captured.num_runs == before


def test_graphs_change_the_place() -> None:
    with_graphs, without = (place_hash(placement, num_threads=1, width=4) for placement in (_GRAPHED, CPU))
    assert with_graphs != without
