"""Tiny models of random weights that edit images by instructions, of both families."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry


def with_small_edits(two_families: Catalogue, folder: Path) -> Catalogue:
    """Write `small-sdxl-edit` and `small-sd15-edit`, small models with wider UNets, and add them to the catalogue."""
    edits = tuple(_write(model, folder / f"{model.id}-edit") for model in two_families.models)
    return two_families.model_copy(update={"models": (*two_families.models, *edits)})


def _write(model: ModelEntry, folder: Path) -> ModelEntry:
    assert model.files.folder is not None
    shutil.copytree(model.files.folder, folder)
    config = UNet2DConditionModel.load_config(folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        UNet2DConditionModel.from_config({**config, "in_channels": 8}).save_pretrained(folder / "unet")
    return model.model_copy(update={"id": folder.name, "aliases": (), "edits": True, "files": Files(folder=folder)})
