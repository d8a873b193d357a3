"""Checkpoints that are put into a folder of models appear on the routes that list models."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.checkpoint_folder import CheckpointFolder
from atelier.catalogue.entries import SDXL_REPOSITORY
from atelier.core.params import GenerateParams
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.checkpoint_files import SD_1, write_checkpoint
from tests.lora_files import write_lora
from tests.stages import RecordingStages


@pytest.fixture
def pipeline(stages: RecordingStages, small_catalogue: Catalogue, tmp_path: Path) -> Pipeline:
    reader = CheckpointFolder(tmp_path / "checkpoints", read_catalogue().model(SDXL_REPOSITORY))
    catalogue = small_catalogue.only(["small-sdxl"], model_readers=[reader], lora_folders=[tmp_path / "loras"])
    return Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=2_000_000))


@pytest.fixture
def _files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", "pony", metadata={"modelspec.author": "me"})
    write_checkpoint(tmp_path / "checkpoints", "v1-5", shapes=SD_1)
    write_lora(tmp_path / "loras", "glow")


@pytest.mark.usefixtures("_files")
async def test_found_models_are_listed(http: httpx2.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()["data"]
    assert [(model["id"], model["owned_by"]) for model in listed] == [("small-sdxl", "atelier"), ("pony", "me")]
    assert (await http.get("/v1/models/pony")).json() == listed[1]
    offered = (await http.get("/")).json()
    assert [model["id"] for model in offered["models"]] == ["small-sdxl", "pony"]
    assert offered["models"][1]["default_size"] == "1024x1024"
    [lora] = (await http.get("/v1/loras", params={"model": "pony"})).json()["data"]
    assert lora["models"] == ["small-sdxl", "pony"]
    assert (await http.get("/v1/loras/glow")).json() == lora
    assert (await http.get("/loras")).json()["loras"] == [lora]


@pytest.mark.usefixtures("_files")
async def test_refused_files_are_reported(http: httpx2.AsyncClient) -> None:
    report = (await http.get("/models")).json()
    assert (report["default"], [model["id"] for model in report["models"]]) == ("small-sdxl", ["small-sdxl", "pony"])
    reason = "it is a Stable Diffusion 1 checkpoint, not an SDXL checkpoint"
    assert report["refused"] == [{"file": "v1-5.safetensors", "reason": reason}]
    answer = await http.get("/v1/models/v1-5")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        f"Unknown model 'v1-5'. v1-5.safetensors: {reason}. Known models: small-sdxl, pony."
    )


@pytest.mark.usefixtures("_files")
async def test_a_found_model_has_its_own_defaults(pipeline: Pipeline) -> None:
    plan = await pipeline.plan(GenerateParams(prompt="x", model="pony", num_inference_steps=1))
    assert (plan.model, str(plan.image_size)) == ("pony", "1024x1024")
