"""A step that fails at any operation, taken again, gives every request the bits that it has without the failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, Floats, Text, TextEmbeds
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest, InitImage, RequestId
from atelier.core.sampling import Sampling
from atelier.engine.engine import Engine
from atelier.engine.packing import Packed
from atelier.engine.request import RunningRequest
from atelier.engine.runner import Runner
from atelier.families.sdxl.text import TextEncoders
from tests.engines import new_engine, run_together
from tests.failing import FailAt
from tests.small_models import CPU
from tests.unit.engine.requests import new_request

_NUM_STEPS = 3
#: More than the operations of a step, so that some examples fail in the second step or not at all.
_MAX_OPERATIONS = 2500

_settings = settings(
    deadline=None,
    max_examples=25,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def embeds(small_catalogue: Catalogue) -> TextEmbeds:
    return TextEncoders(small_catalogue.model(None), CPU).encode([Text("a red circle", "a red circle")])[0]


@pytest.fixture(scope="module")
def requests(embeds: TextEmbeds) -> list[DenoiseRequest]:
    """`exact` requests with everything that a step computes: noise, D₋₂, controls, masks, rescaled guidance."""
    random = np.random.default_rng(0)
    mean, std = (random.random((1, 4, 8, 12), dtype=np.float32) for _ in range(2))
    masked = InitImage(mean=mean, std=std, mask=(random.random((8, 12)) > 0.5).astype(np.float32))
    control = Control(
        controlnet="small-canny",
        control_image=random.integers(0, 255, (64, 96, 3), dtype=np.uint8),
        controlnet_conditioning_scale=0.7,
    )
    sampling = Sampling(num_inference_steps=_NUM_STEPS)
    plain = replace(new_request(), conditioning=Conditioning(positive=embeds, negative=None))
    plain = replace(plain, pass_=replace(plain.pass_, reproducibility="exact", sampling=sampling))
    noisy, masking = replace(sampling, sampler="euler_a"), replace(sampling, sampler="dpmpp_2m_sde", strength=0.7)
    return [
        plain,
        _changed(plain, "noisy", sampling=noisy, seeds=(3, 4), guidance_rescale=0.4),
        replace(_changed(plain, "masked", sampling=masking), init_image=masked),
        replace(_changed(plain, "controlled", sampling=replace(sampling, sampler="unipc")), controls=(control,)),
    ]


def _changed(request: DenoiseRequest, name: str, **of_pass: Any) -> DenoiseRequest:
    return replace(request, request_id=RequestId(name), pass_=replace(request.pass_, **of_pass))


class _World:
    """An engine, and requests with the latents that they have undisturbed. Its `repr` is short, for hypothesis."""

    def __init__(self, engine: Engine, requests: list[DenoiseRequest]) -> None:
        self._engine = engine
        self._requests = requests
        self.undisturbed = self.run(fail_at=-1)

    def run(self, *, fail_at: int) -> list[Floats]:
        """Run the requests; one operation of PyTorch fails, or none at −1. Attention has other bits in the mode."""
        step, mode = Runner.step, FailAt(fail_at)

        def step_in_mode(runner: Runner, running: Sequence[RunningRequest], packed: Packed) -> None:
            with mode:
                step(runner, running, packed)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Runner, "step", step_in_mode)
            return run_together(self._engine, self._requests)


@pytest.fixture(scope="module")
def world(small_catalogue: Catalogue, requests: list[DenoiseRequest]) -> Iterator[_World]:
    engine = new_engine(small_catalogue)
    yield _World(engine, requests)
    engine.close()


@given(operation=st.integers(0, _MAX_OPERATIONS))
@_settings
def test_neighbours_of_a_failed_operation_keep_their_bits(world: _World, operation: int) -> None:
    """The engine takes the failed step again, one request at a time."""
    for ours, theirs in zip(world.run(fail_at=operation), world.undisturbed, strict=True):
        assert np.array_equal(ours, theirs)
