"""What replicas say of their device, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import ray
from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.status import Device
from deployments.annotator import Annotator
from deployments.autoencoder import Autoencoder
from deployments.denoiser import Denoiser
from deployments.options import (
    AnnotatorOptions,
    AutoencoderOptions,
    DenoiserOptions,
    TextEncoderOptions,
    UpscalerOptions,
)
from deployments.replica import Replica
from deployments.text_encoder import TextEncoder
from deployments.upscaler import Upscaler


@pytest.mark.parametrize(
    ("start", "models"),
    [
        (lambda catalogue: TextEncoder(catalogue, TextEncoderOptions()), ("small-sdxl",)),
        (lambda catalogue: Autoencoder(catalogue, AutoencoderOptions()), ("small-sdxl",)),
        (lambda catalogue: Denoiser(catalogue, DenoiserOptions(num_threads=1), None), ("small-sdxl",)),
        (lambda catalogue: Annotator(catalogue, AnnotatorOptions(num_threads=1)), ()),
        (lambda catalogue: Upscaler(catalogue, UpscalerOptions(num_threads=1)), ()),
    ],
    ids=["TextEncoder", "Autoencoder", "Denoiser", "Annotator", "Upscaler"],
)
async def test_a_replica_says_where_it_runs_and_which_models_it_holds(
    start: Callable[[Catalogue], Replica | Denoiser],
    models: tuple[str, ...],
    small_catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    monkeypatch.setattr(serve, "get_replica_context", lambda: replica)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n1"))
    assert await start(small_catalogue).device() == Device(replica="r1", node="n1", gpu=None, models=models)
