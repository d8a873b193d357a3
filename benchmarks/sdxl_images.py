"""Whole images by the engine and the VAE, against diffusers' pipeline: whether they are the same, and how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from atelier.core.conditioning import Floats
from atelier.core.denoising import DenoiseRequest
from atelier.core.geometry import Size
from atelier.engine.engine import Engine, EngineSettings
from atelier.engine.runners import load_runners
from atelier.models.autoencoder import Autoencoder
from atelier.models.loading import Placement, load_scheduler, load_unet, load_vae
from benchmarks.sdxl_setup import Numbers, Setup, milliseconds
from tests.engines import run_together


def correctness(setup: Setup) -> Numbers:
    """Latents of the engine and of diffusers' pipeline, relative to those of the pipeline in float32."""
    requests = setup.requests(3, num_steps=setup.num_throughput_steps)
    exact = [replace(request, pass_=replace(request.pass_, reproducibility="exact")) for request in requests]
    with _engine(setup) as engine:
        [ours] = run_together(engine, requests[:1])
        together = run_together(engine, exact)
        [alone] = run_together(engine, exact[:1])
    in_float32 = _latents(_pipeline(setup, Placement(setup.placement.device, "float32")), requests[0])
    theirs = _latents(_pipeline(setup, setup.placement), requests[0])
    return {
        "latents: engine's difference to diffusers in float32": _difference(ours, in_float32),
        "latents: difference of diffusers in the same precision": _difference(theirs, in_float32),
        "latents: exact ones alone and in a batch": "same bits" if (together[0] == alone).all() else "differ",
    }


def images(setup: Setup) -> Numbers:
    """The time of one image, and images a second, with the VAE; by the engine and by diffusers' pipeline."""
    one = setup.requests(1, num_steps=setup.num_latency_steps)
    several = setup.requests(setup.num_images, num_steps=setup.num_throughput_steps)
    autoencoder = Autoencoder(setup.entry, setup.placement)
    pipeline = _pipeline(setup, setup.placement)
    with _engine(setup) as engine:

        def ours(requests: Sequence[DenoiseRequest]) -> None:
            for latents in run_together(engine, requests):
                autoencoder.decode_latents(latents)

        ours_s = [setup.seconds(lambda: ours(one)), setup.seconds(lambda: ours(several))]
    numbers = {
        f"one image of {setup.num_latency_steps} steps, s": round(ours_s[0], 3),
        f"images of {setup.num_throughput_steps} steps per s": round(setup.num_images / ours_s[1], 3),
    }
    for name in ("diffusers", "compiled diffusers")[: 1 + setup.is_compiled]:
        if name != "diffusers":
            pipeline.unet = torch.compile(pipeline.unet)
        theirs_s = [setup.seconds(lambda: _draw(pipeline, one)), setup.seconds(lambda: _draw(pipeline, several))]
        numbers[f"one image: {name} / engine"] = round(theirs_s[0] / ours_s[0], 3)
        numbers[f"several images: {name} / engine"] = round(theirs_s[1] / ours_s[1], 3)
    return dict(numbers)


def vae(setup: Setup) -> Numbers:
    """The time to decode an image of the first size, and one of twice its sides."""
    autoencoder, size = Autoencoder(setup.entry, setup.placement), setup.sizes[0]
    numbers = Numbers()
    for scale in (1, 2):
        height, width = scale * size.latent_height, scale * size.latent_width
        latents = np.random.default_rng(0).standard_normal((1, 4, height, width), np.float32)
        decoding_s = setup.seconds(partial(autoencoder.decode_latents, latents))
        numbers[f"VAE, {Size(width=8 * width, height=8 * height)}, ms"] = milliseconds(decoding_s)
    return numbers


@contextmanager
def _engine(setup: Setup) -> Iterator[Engine]:
    settings = EngineSettings(num_threads=torch.get_num_threads(), max_waiting=64, max_rows=64, exact_width=4)
    engine = Engine(lambda: load_runners([setup.entry], setup.placement), settings, place="benchmark")
    yield engine
    engine.close()


def _pipeline(setup: Setup, placement: Placement) -> StableDiffusionXLPipeline:
    decoder: AutoencoderKL = load_vae(setup.entry, placement)
    pipeline = StableDiffusionXLPipeline(
        vae=decoder,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=load_unet(setup.entry, placement),
        scheduler=load_scheduler(setup.entry),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _draw(pipeline: StableDiffusionXLPipeline, requests: Sequence[DenoiseRequest], output_type: str = "np") -> Floats:
    """Draw the images of requests in one call of the pipeline."""
    pass_, conditioning = requests[0].pass_, requests[0].conditioning
    assert conditioning.negative is not None
    embeds = {
        f"{role}{name}": torch.tensor(
            getattr(of, name), dtype=pipeline.unet.dtype, device=pipeline.unet.device
        ).expand(len(requests), *getattr(of, name).shape)
        for role, of in (("", conditioning.positive), ("negative_", conditioning.negative))
        for name in ("prompt_embeds", "pooled_prompt_embeds")
    }
    drawn: Floats = pipeline(
        **embeds,
        width=pass_.size.width,
        height=pass_.size.height,
        num_inference_steps=pass_.sampling.num_inference_steps,
        guidance_scale=pass_.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(request.pass_.seeds[0]) for request in requests],
        output_type=output_type,
    ).images
    return drawn


def _latents(pipeline: StableDiffusionXLPipeline, request: DenoiseRequest) -> Floats:
    latents: Floats = torch.as_tensor(_draw(pipeline, [request], "latent")).float().cpu().numpy()
    return latents


def _difference(latents: Floats, expected: Floats) -> float:
    return float(f"{np.abs(latents - expected).max() / np.abs(expected).max():.2e}")
