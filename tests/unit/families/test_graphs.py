"""Graphs give what the UNet gives, from memory of their own; a stand-in for CUDA's runs the halves again."""

from __future__ import annotations

import weakref

import pytest
import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue
from atelier.families.unet.adapters.rows import RowChanges
from atelier.families.unet.attention import install, keys_values
from atelier.families.unet.conditions import Conditions
from atelier.families.unet.graphs import NUMS_OF_ROWS, GraphedUNet
from atelier.families.unet.halves import decode_half, encode_half
from atelier.models.loading import load_unet
from tests.graphs import Captured
from tests.small_models import CPU, POOLED_WIDTH, TEXT_WIDTHS

_HEIGHT, _WIDTH = 6, 8


@pytest.fixture(scope="module")
def unet(small_catalogue: Catalogue) -> UNet2DConditionModel:
    unet = load_unet(small_catalogue.model(None), CPU)
    install(unet)
    return unet


@pytest.fixture
def captured() -> Captured:
    return Captured()


@pytest.fixture
def graphed(unet: UNet2DConditionModel, captured: Captured) -> GraphedUNet:
    graphed = GraphedUNet(unet, lambda: 0, captured)
    with torch.inference_mode():
        graphed.prepare(_HEIGHT, _WIDTH, _conditions(unet, 2))
    return graphed


def _conditions(unet: UNet2DConditionModel, num_rows: int, *, num_chunks: int = 1) -> Conditions:
    return Conditions(
        prompt=keys_values(unet, torch.randn(num_rows, 77 * num_chunks, sum(TEXT_WIDTHS))),
        prompt_bias=torch.zeros(num_rows, 1, 77 * num_chunks),
        pooled_prompt_embeds=torch.randn(num_rows, POOLED_WIDTH),
        add_time_ids=torch.rand(num_rows, 6) * 100,
    )


@torch.inference_mode()
def _check(
    unet: UNet2DConditionModel, graphed: GraphedUNet, conditions: Conditions, *, height: int = _HEIGHT
) -> torch.Tensor:
    """Run both, with a residual of a ControlNet between the halves, and compare them; return what the graph gave."""
    num_rows = len(conditions.prompt_bias)
    model_input, timesteps = torch.randn(num_rows, 4, height, _WIDTH), torch.rand(num_rows) * 1000
    encoded = graphed.encode_half(model_input, timesteps, conditions)
    expected = encode_half(unet, model_input, timesteps, conditions)
    for each in (encoded, expected):
        each.hidden_states[:1] += 0.5
        each.skips[0][:1] += 0.5
    noise_pred = graphed.decode_half(encoded, conditions)
    torch.testing.assert_close(noise_pred, decode_half(unet, expected, conditions), atol=1e-5, rtol=1e-5)
    return noise_pred


@torch.inference_mode()
def test_every_number_of_rows_gives_what_the_unet_gives(
    unet: UNet2DConditionModel, graphed: GraphedUNet, captured: Captured
) -> None:
    num_captured = captured.num_captured
    for num_rows in (1, 2, 3, 9, NUMS_OF_ROWS[-1]):
        conditions = _conditions(unet, num_rows)
        for _ in range(2):
            _check(unet, graphed, conditions)
    assert captured.num_captured == num_captured == 2 * len(NUMS_OF_ROWS)
    assert captured.num_runs == 2 * 2 * 5


@torch.inference_mode()
def test_a_graph_reads_the_conditions_of_each_call(unet: UNet2DConditionModel, graphed: GraphedUNet) -> None:
    one, other = _conditions(unet, 2), _conditions(unet, 2)
    for conditions in (one, other, one):
        _check(unet, graphed, conditions)


@torch.inference_mode()
def test_the_conditions_of_the_last_call_are_not_kept(unet: UNet2DConditionModel, graphed: GraphedUNet) -> None:
    conditions = _conditions(unet, 2)
    _check(unet, graphed, conditions)
    last = weakref.ref(conditions)
    del conditions
    assert last() is None


@torch.inference_mode()
def test_a_result_stays_when_the_graph_runs_again(unet: UNet2DConditionModel, graphed: GraphedUNet) -> None:
    first = _check(unet, graphed, _conditions(unet, 2))
    before = first.clone()
    _check(unet, graphed, _conditions(unet, 2))
    assert torch.equal(first, before)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["longer prompts", "more rows", "LoRAs", "another size"])
def test_other_calls_run_kernel_by_kernel(
    unet: UNet2DConditionModel, graphed: GraphedUNet, captured: Captured, kind: str
) -> None:
    conditions = _conditions(unet, 40 if kind == "more rows" else 2, num_chunks=2 if kind == "longer prompts" else 1)
    if kind == "LoRAs":
        weight = torch.zeros(2, *unet.conv_in.weight.shape)
        conditions = Conditions(
            prompt=conditions.prompt,
            prompt_bias=conditions.prompt_bias,
            pooled_prompt_embeds=conditions.pooled_prompt_embeds,
            add_time_ids=conditions.add_time_ids,
            adapters={"conv_in": RowChanges(weight, None)},
        )
    _check(unet, graphed, conditions, height=4 if kind == "another size" else _HEIGHT)
    assert captured.num_runs == 0


@torch.inference_mode()
def test_a_size_that_is_used_often_gets_graphs(
    unet: UNet2DConditionModel, graphed: GraphedUNet, captured: Captured
) -> None:
    conditions = _conditions(unet, 2)
    for _ in range(60):
        _check(unet, graphed, conditions, height=4)
    assert 0 < captured.num_runs < 2 * 60


@torch.inference_mode()
def test_graphs_end_when_the_weights_have_left(unet: UNet2DConditionModel, captured: Captured) -> None:
    arrivals = [0]
    graphed = GraphedUNet(unet, lambda: arrivals[0], captured)
    graphed.prepare(_HEIGHT, _WIDTH, _conditions(unet, 2))
    _check(unet, graphed, _conditions(unet, 2))
    num_runs = captured.num_runs
    assert num_runs == 2
    arrivals[0] += 1
    _check(unet, graphed, _conditions(unet, 2))
    assert captured.num_runs == num_runs
