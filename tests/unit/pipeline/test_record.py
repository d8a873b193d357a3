"""The record of a request."""

from __future__ import annotations

from random import Random

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.params import GenerateParams, parse
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.resolve import resolve
from tests.records import new_record


def test_a_plan_is_recorded_with_all_of_its_passes(small_catalogue: Catalogue) -> None:
    fields = {
        "prompt": "x",
        "size": "64x32",
        "n": 2,
        "num_inference_steps": 6,
        "hires": {"scale": 2, "strength": 0.5},
    }
    params = parse(GenerateParams, fields)
    record = new_record()
    record.plan(resolve(params, InputSizes(), small_catalogue, max_pixel_steps=10**9, random=Random(0)))
    assert (record.model, str(record.size), record.num_images, record.num_steps) == ("small-sdxl", "128x64", 2, 9)


def test_times_of_one_stage_are_added_up() -> None:
    record = new_record()
    for _ in range(2):
        with record.timed("upscale"):
            pass
    first = record.stage_s["upscale"]
    with pytest.raises(ValueError, match="broken"), record.timed("upscale"):
        raise ValueError("broken")
    assert record.stage_s["upscale"] > first > 0
    assert list(record.stage_s) == ["upscale"]


def test_what_is_not_known_has_no_field() -> None:
    assert set(new_record().fields()) == {"request_id", "endpoint", "status", "total_s"}
