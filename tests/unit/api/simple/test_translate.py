"""Defaults of the simple routes, for usual models and for those that are distilled to a few steps."""

from __future__ import annotations

import pytest

from atelier.api.simple.schemas import SimpleParams
from atelier.api.simple.translate import simple_params
from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.core.params import parse


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue().only(["tiny-sdxl", "tiny-sdxl-lightning"])


@pytest.mark.parametrize(
    ("model", "given", "steps", "guidance_scale"),
    [
        (None, {}, 30, 7.5),
        ("tiny-sdxl", {}, 30, 7.5),
        ("tiny-sdxl-lightning", {}, None, None),
        ("tiny-sdxl-lightning", {"steps": 12}, 12, None),
        ("tiny-sdxl-lightning", {"guidance_scale": 2.0}, None, 2.0),
    ],
)
def test_a_distilled_model_keeps_its_own_defaults(
    catalogue: Catalogue, model: str | None, given: dict[str, object], steps: int | None, guidance_scale: float | None
) -> None:
    params = simple_params(parse(SimpleParams, {"prompt": "x", "model": model, **given}), catalogue)
    assert (params.num_inference_steps, params.guidance_scale) == (steps, guidance_scale)
