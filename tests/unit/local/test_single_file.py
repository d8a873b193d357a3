"""A checkpoint that is found in a folder draws what the diffusers folder that it was made from draws."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.selection import Selection
from atelier.core.params import GenerateParams, parse
from atelier.local.stages import DEFAULT_SETTINGS, local_stages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.pictures import pixels_of
from tests.records import new_record
from tests.single_file import write_single_file

pytestmark = pytest.mark.zoo

_PROMPT = "a red circle, white background"
#: What the file cannot say of the zoo's model, which is smaller than SDXL.
_BESIDE = {
    "config": "configs",
    "sides_px": {"min": 64, "max": 256},
    "defaults": {"size": "128x128", "num_inference_steps": 20},
}


async def test_a_single_file_gives_the_bits_of_the_folder(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = catalogue.model("tiny-sdxl").files.folder
    assert folder is not None
    write_single_file(folder, tmp_path / "checkpoints" / "one.safetensors")
    (tmp_path / "checkpoints" / "one.json").write_text(json.dumps(_BESIDE))
    ignore = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(folder, tmp_path / "checkpoints" / "configs", ignore=ignore)
    found = Selection(model_folders=(tmp_path,), annotators=()).read({}).model("one")
    # That of SDXL base is on the hub.
    both = Catalogue(models=(*catalogue.models, found.model_copy(update={"preview_decoder": None})))
    images, weights = {}, dict[str, str]()
    async with local_stages(both, settings=replace(DEFAULT_SETTINGS, num_threads=1)) as stages:
        pipeline = Pipeline(stages, both, PipelineLimits(max_pixel_steps=10_000_000))
        for model in ("tiny-sdxl", "one"):
            params = parse(GenerateParams, {"prompt": _PROMPT, "model": model, "seed": 7, "reproducibility": "exact"})
            result = await pipeline.generate(new_record(), params)
            images[model] = pixels_of(result.pictures[0].data)
        for stage in ("text_encoder", "denoiser", "autoencoder"):
            weights |= (await stages.origin(stage)).weights
    assert np.array_equal(images["tiny-sdxl"], images["one"])
    height, width, _ = images["one"].shape
    red, green, blue = images["one"][height // 2, width // 2]
    assert red > 150 > max(green, blue)
    assert {name.partition("/")[2]: value for name, value in weights.items() if name.startswith("one/")} == {
        name.partition("/")[2]: value for name, value in weights.items() if name.startswith("tiny-sdxl/")
    }
    assert {"one/unet", "one/vae", "one/text_encoders"} <= set(weights)
