from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.control.calls import ControlCall
from atelier.control.codec import decode, encode
from atelier.control.controlnets import ControlNets
from atelier.control.transports import InProcess
from atelier.core.errors import ModelUnavailable
from atelier.models.host import ModelHost
from tests.small_models import CPU
from tests.small_sd15 import TEXT_WIDTH
from tests.unit.control.calls import are_equal, new_call


def test_a_longer_prompt_in_the_same_pass_leaves_a_rows_bits_alone(controlnets: ControlNets) -> None:
    """Every prompt is padded to the length in the UNet's call, so other rows do not change it."""
    short, contexts = new_call(seed=16, num_rows=1, width=2, num_tokens=154)
    long, others = new_call(seed=17, num_rows=1, width=2, num_tokens=154, num_chunks=2)
    in_process = InProcess(controlnets)
    [alone] = in_process.start([short], contexts)()
    together = replace(
        short,
        rows=(*short.rows, *long.rows),
        model_input=torch.cat([short.model_input, long.model_input]),
        timesteps=torch.cat([short.timesteps, long.timesteps]),
    )
    [both] = in_process.start([together], {**contexts, **others})()
    assert are_equal(alone, both.select(slice(1)))


def test_a_fixed_width_makes_a_rows_bits_independent_of_other_rows(controlnets: ControlNets) -> None:
    in_process = InProcess(controlnets)
    call, contexts = new_call(seed=3, num_rows=5, width=4)
    [whole] = in_process.start([call], contexts)()
    alone = replace(
        call, rows=call.rows[2:3], model_input=call.model_input[2:3], timesteps=call.timesteps[2:3], width=4
    )
    [one] = in_process.start([alone], contexts)()
    assert are_equal(one, whole.select(slice(2, 3)))


def test_an_unused_context_is_evicted_and_prepared_again(controlnets: ControlNets) -> None:
    call, contexts = new_call(seed=4)
    in_process = InProcess(controlnets)
    [before] = in_process.start([call], contexts)()
    other, others = new_call(seed=5)
    for _ in range(20):
        in_process.start([other], others)()
    assert controlnets.unknown(call.rows) == tuple(contexts)
    assert controlnets.unknown(other.rows) == ()
    [after] = in_process.start([call], contexts)()
    assert are_equal(before, after)


def _largest(call: ControlCall, controlnets: ControlNets) -> list[float]:
    """The largest residual of every row in the first skip connection and in the middle block."""
    residuals = controlnets.residuals(call)
    return [float(tensor.abs().max()) for tensor in (residuals.skips[0], residuals.hidden_states)]


def test_the_role_of_a_row_decides_which_prompt_it_reads(controlnets: ControlNets) -> None:
    call, contexts = new_call(seed=20, num_rows=1)
    [positive] = InProcess(controlnets).start([call], contexts)()
    negative_call = replace(call, rows=(replace(call.rows[0], role="negative"),))
    [negative] = InProcess(controlnets).start([negative_call], contexts)()
    assert not torch.equal(positive.hidden_states, negative.hidden_states)


def test_residuals_grow_with_the_scale_and_guess_mode_weakens_the_first_layers(controlnets: ControlNets) -> None:
    call, contexts = new_call(seed=21, num_rows=1)
    for context in contexts.values():
        controlnets.prepare(context)

    def largest(scale: float, *, guess_mode: bool = False) -> list[float]:
        row = replace(call.rows[0], controlnet_conditioning_scale=scale, guess_mode=guess_mode)
        return _largest(replace(call, rows=(row,)), controlnets)

    first, middle = largest(1.0)
    assert largest(0.5) == pytest.approx([0.5 * first, 0.5 * middle], rel=1e-4)
    assert largest(1.0, guess_mode=True) == pytest.approx([0.1 * first, middle], rel=1e-4)


@pytest.mark.parametrize(("controlnet", "base"), [("small-canny", "small-sd15"), ("small-sd15-canny", "small-sdxl")])
def test_a_controlnet_of_another_family_than_its_base_is_unavailable(
    two_families: Catalogue, controlnet: str, base: str
) -> None:
    [entry] = [entry for entry in two_families.controlnets if entry.id == controlnet]
    wrong = two_families.model_copy(update={"controlnets": (entry.model_copy(update={"base": base}),)})
    with pytest.raises(ModelUnavailable, match=f"{controlnet}.*addition_embed_type"):
        ControlNets(wrong, CPU, ModelHost(CPU))


def test_the_context_of_a_model_without_pooled_embeddings_crosses_processes(two_families: Catalogue) -> None:
    call, contexts = new_call(
        seed=8, controlnet="small-sd15-canny", text_width=TEXT_WIDTH, pooled_width=0, latent_width=8
    )
    controlnets = ControlNets(two_families, CPU, ModelHost(CPU))
    sent = decode(encode(contexts), CPU)
    [theirs] = InProcess(controlnets).start([call], sent)()
    [ours] = InProcess(controlnets).start([call], contexts)()
    assert are_equal(ours, theirs)
