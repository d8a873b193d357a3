from __future__ import annotations

from importlib.metadata import version
from random import Random
from typing import Any

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.origin import Origin
from atelier.core.params import GenerateParams, parse
from atelier.imaging.metadata import Metadata
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.metadata import metadata_of
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.resolve import resolve
from atelier.pipeline.stages import Annotated


def _metadata(catalogue: Catalogue, *, seed: int = 9, **fields: Any) -> Metadata:
    params = parse(GenerateParams, {"prompt": "a red circle", "seed": 8, "n": 2, **fields})
    plan = resolve(params, InputSizes(), catalogue, max_pixel_steps=10**9, random=Random(0))
    provenance = Provenance()
    provenance.record(Annotated(None, Origin("here", {"unet": "1"})))  # type: ignore[arg-type]
    return metadata_of(plan, seed, provenance)


def test_the_infotext_is_automatic1111s(small_catalogue: Catalogue) -> None:
    fields: dict[str, Any] = {
        "negative_prompt": "blue",
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "guidance_scale": 3.5,
    }
    infotext = _metadata(small_catalogue, **fields, size="96x64", num_inference_steps=3).infotext
    assert infotext == (
        "a red circle\n"
        "Negative prompt: blue\n"
        "Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3.5, Seed: 9, Size: 96x64, "
        f"Model: small-sdxl, Version: Atelier {version('atelier')}"
    )


@pytest.mark.parametrize("fields", [{}, {"negative_prompt": ""}])
def test_what_is_absent_is_left_out_of_the_infotext(small_catalogue: Catalogue, fields: dict[str, Any]) -> None:
    assert _metadata(small_catalogue, **fields).infotext == (
        "a red circle\n"
        "Steps: 4, Sampler: Euler, CFG scale: 5.0, Seed: 9, Size: 64x64, Model: small-sdxl, "
        f"Version: Atelier {version('atelier')}"
    )


def test_the_infotext_of_an_edit_has_its_image_guidance_and_no_strength(edit_catalogue: Catalogue) -> None:
    infotext = _metadata(edit_catalogue, model="small-sdxl-edit", init_image=b"x", image_guidance_scale=2).infotext
    assert "CFG scale: 5.0, Image CFG scale: 2.0, Seed: 9, Size: 64x64, Model: small-sdxl-edit, Version: " in infotext


def test_the_infotext_has_the_strength_of_an_init_image(small_catalogue: Catalogue) -> None:
    infotext = _metadata(small_catalogue, init_image=b"x", strength=0.5).infotext
    assert "Model: small-sdxl, Denoising strength: 0.5, Version: " in infotext


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        ("normal", None),
        ("karras", "Karras"),
        ("exponential", "Exponential"),
        ("trailing", None),
        ("linspace", "Normal"),
    ],
)
def test_schedules_that_automatic1111_has_are_named(
    small_catalogue: Catalogue, schedule: str, name: str | None
) -> None:
    infotext = _metadata(small_catalogue, schedule=schedule).infotext
    assert (f"Sampler: Euler, Schedule type: {name}, CFG" if name else "Sampler: Euler, CFG") in infotext


def test_the_record_makes_the_image_again(small_catalogue: Catalogue) -> None:
    record = dict(_metadata(small_catalogue, negative_prompt="blue").record)
    key = record.pop("exactness_key")
    assert isinstance(key, str)
    assert len(key) == 16
    assert record == {
        "parameters": {
            "prompt": "a red circle",
            "model": "small-sdxl",
            "size": "64x64",
            "output_format": "png",
            "negative_prompt": "blue",
            "negative_prompt_2": "blue",
            "seed": 9,
            "num_inference_steps": 4,
            "guidance_scale": 5.0,
            "sampler": "euler",
            "reproducibility": "fast",
        },
        "weights": {"unet": "1"},
        "server": f"Atelier {version('atelier')}",
        "versions": {name: version(name) for name in ("atelier", "diffusers", "torch", "transformers")},
    }
