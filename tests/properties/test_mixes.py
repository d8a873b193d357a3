"""A request's latents do not depend on the rest of the batch: within a bound at `fast`, to the bit at `exact`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from atelier.catalogue.catalogue import Catalogue
from atelier.core.adapters import Lora, in_order
from atelier.core.conditioning import Conditioning, Text, TextEmbeds
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import SAMPLERS, Reproducibility, Sampling
from atelier.engine.engine import Engine
from atelier.families.sdxl.text import TextEncoders
from atelier.models.autoencoder import Autoencoder
from atelier.models.loading import load_unet
from tests.engines import new_engine, run_together
from tests.loras import add_lora, write_lora
from tests.small_models import CPU

_PROMPTS = ("a red circle", "two blue rings on the left " * 20, "a yellow star, black background", "")
#: Ranks and layers of LoRAs by their ids.
_LORAS = {"a": (8, "attention"), "b": (4, "all"), "c": (32, "linear")}
#: Largest difference of latents, relative to the largest latent of the request alone.
_FAST = 5e-4
_MIN_PSNR_DB = 70.0

#: No shrinking, because a mix is slow to run: a failing one is reported as it is found.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_settings = settings(
    deadline=None, max_examples=4, phases=_PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def embeds(catalogue: Catalogue) -> list[TextEmbeds]:
    encoders = TextEncoders(catalogue.model(None), CPU)
    return [encoders.encode([Text(prompt, prompt)])[0] for prompt in _PROMPTS]


@pytest.fixture(scope="module")
def lora_files(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files of random LoRAs for the zoo's UNet, by their ids."""
    unet, folder = load_unet(catalogue.model(None), CPU), tmp_path_factory.mktemp("loras")
    files = {name: folder / f"{name}.safetensors" for name in _LORAS}
    for seed, (name, (rank, targets)) in enumerate(_LORAS.items()):
        add_lora(unet, name, rank=rank, targets=targets, seed=seed)
        write_lora(name, files[name], {"unet": unet})
    return files


@pytest.fixture(scope="module")
def engine(catalogue: Catalogue, lora_files: Mapping[str, Path]) -> Iterator[Engine]:
    engine = new_engine(catalogue, max_rows=64, find=lora_files.__getitem__)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def replica(catalogue: Catalogue, lora_files: Mapping[str, Path]) -> Iterator[Engine]:
    """Another engine with the same settings, and its own modules and thread."""
    engine = new_engine(catalogue, max_rows=64, find=lora_files.__getitem__)
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
def _controls(draw: st.DrawFn, size: Size) -> tuple[Control, ...]:
    """Up to two controls; most requests have none."""
    shape = (size.height, size.width, 3)
    noise = np.random.default_rng(draw(st.integers(0, 2))).integers(0, 255, shape, dtype=np.uint8)
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
def _loras(draw: st.DrawFn) -> tuple[Lora, ...]:
    """Up to three LoRAs; half of the requests have none."""
    names = draw(st.sampled_from([(), (), ("a",), ("b",), ("a", "c"), ("a", "b", "c")]))
    return in_order(Lora(name, draw(st.sampled_from([-0.5, 0.4, 1.0]))) for name in names)


@st.composite
def _mix(draw: st.DrawFn, reproducibility: Reproducibility) -> list[tuple[DenoiseRequest, tuple[int, int | None]]]:
    """Sixteen requests without prompts, and the indices of their positive and negative prompts."""
    sizes = [Size(width=64, height=draw(st.sampled_from([64, 72]))) for _ in range(16)]
    return [
        (
            DenoiseRequest(
                request_id=RequestId(f"req_{index}"),
                pass_=Pass(
                    model="tiny-sdxl",
                    size=size,
                    seeds=tuple(range(index, index + draw(st.integers(1, 2)))),
                    sampling=draw(_sampling()),
                    guidance_scale=draw(st.sampled_from([1.0, 2.5, 7.0])),
                    guidance_rescale=draw(st.sampled_from([0.0, 0.0, 0.6])),
                    loras=draw(_loras()),
                    reproducibility=reproducibility,
                ),
                controls=draw(_controls(size)),
                conditioning=_NO_PROMPT,
            ),
            (draw(st.integers(0, 3)), draw(st.sampled_from([None, 0, 1, 3]))),
        )
        for index, size in enumerate(sizes)
    ]


_NO_PROMPT = Conditioning(
    positive=TextEmbeds(prompt_embeds=np.zeros((77, 0), np.float32), pooled_prompt_embeds=np.zeros(0, np.float32)),
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
def test_fast_requests_differ_little_from_themselves_alone(
    engine: Engine,
    autoencoder: Autoencoder,
    embeds: list[TextEmbeds],
    mix: list[tuple[DenoiseRequest, tuple[int, int | None]]],
) -> None:
    requests = _with_prompts(mix, embeds)
    for request, together in zip(requests, run_together(engine, requests), strict=True):
        [alone] = run_together(engine, [request])
        assert np.abs(together - alone).max() <= _FAST * np.abs(alone).max(), request.pass_
        assert _psnr_db(autoencoder.decode_latents(together), autoencoder.decode_latents(alone)) >= _MIN_PSNR_DB


@given(mix=_mix("exact"), order=st.permutations(range(16)))
@_settings
def test_exact_requests_have_the_same_bits_alone_in_any_batch_and_on_another_replica(
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
        assert np.array_equal(together[index], alone), requests[index].pass_
        assert np.array_equal(shuffled[index], alone)
