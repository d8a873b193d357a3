"""Which models of which catalogue to serve: the part of a graph's arguments that fetching them needs, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from atelier.catalogue.catalogue import DEFAULT_CATALOGUE, Catalogue, read_catalogue
from atelier.catalogue.checkpoint_folder import CheckpointFolder, UnsupportedFolder
from atelier.catalogue.entries import SDXL_REPOSITORY
from atelier.catalogue.installed import read_installed
from atelier.catalogue.library import ModelReader
from atelier.catalogue.model_folders import Kind, find_model_folders
from atelier.catalogue.storage import Storage
from atelier.catalogue.upscaler_folder import UpscalerFolder

#: Why files of these kinds are refused.
_UNSUPPORTED: Mapping[Kind, str] = {
    "controlnets": "it does not say which base model it goes with; enter it in the catalogue under `controlnets`",
    "embeddings": "embeddings (textual inversion) are not supported",
}


class Selection(BaseModel):
    """The models that a graph serves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    catalogue: Path = Field(DEFAULT_CATALOGUE, description="Path of the catalogue, a YAML file of models.")
    models: tuple[str, ...] = Field(
        ("tiny-sdxl",),
        min_length=1,
        description="Ids of the models to serve. The first one serves requests that name no model.",
    )
    controlnets: tuple[str, ...] | None = Field(
        None,
        description="Ids of the ControlNets to serve. By default, all ControlNets of the served models whose files "
        "are on this machine.",
    )
    annotators: tuple[str, ...] = Field(
        ("tiny-depth-anything",), description="Ids of the models that draw control maps; the first of a kind is used."
    )
    upscalers: tuple[str, ...] = Field(
        ("tiny-x4",), description="Ids of the upscalers to serve. The first one serves requests that name none."
    )
    loras: tuple[str, ...] | None = Field(
        None,
        description="Ids of the catalogue's LoRAs to serve. By default, all LoRAs of the served models whose files "
        "are on this machine.",
    )
    loras_dir: Path | None = Field(
        None,
        description="Folder that every process watches for LoRAs, the same path on every node: a file ID.safetensors "
        "that is put into it is served without a restart. By default the folder `loras` in ATELIER_MODELS_DIR, or "
        "`~/.cache/atelier/loras`.",
    )
    model_folders: tuple[Path, ...] = Field(
        (),
        description="Root folders of ComfyUI or AUTOMATIC1111, the same paths on every node, whose SDXL checkpoints "
        "and LoRAs every process watches, and whose upscalers are read at the start; see [models](models.md).",
    )
    require_weights: bool = Field(
        True,
        description="Whether a replica fails to start if a model's files are not on its machine. If false, it "
        "downloads repositories of the hub while it starts, and an upscaler without its file is bicubic.",
    )

    def read(self, environment: Mapping[str, str]) -> Catalogue:
        """Read the catalogue and keep the selected models; ATELIER_MODELS_DIR says where their files are.

        Raises:
            CatalogueError: the catalogue is missing or wrong, or a folder of models is.
            ModelNotFound: an id is not in the catalogue.
        """
        storage = Storage.from_environment(environment, require_weights=self.require_weights)
        catalogue = read_catalogue(self.catalogue, storage)
        loras_dir = storage.loras_dir if self.loras_dir is None else self.loras_dir.expanduser().absolute()
        folders = find_model_folders(root.expanduser().absolute() for root in self.model_folders)
        upscalers = [UpscalerFolder(folder, storage) for folder in folders["upscalers"]]
        return catalogue.only(
            self.models,
            self.controlnets,
            self.annotators,
            self.upscalers,
            self.loras,
            lora_folders=[loras_dir, *folders["loras"]],
            model_readers=[
                *_readers(folders, storage),
                partial(read_installed, storage.installed_dir, storage),
                *(folder.refused for folder in upscalers),
            ],
            found_upscalers=[entry for folder in upscalers for entry in folder.entries()],
        )


def _readers(folders: Mapping[Kind, Sequence[Path]], storage: Storage) -> Iterator[ModelReader]:
    """Yield the readers of checkpoints, and those that refuse what is not read from a folder."""
    if folders["checkpoints"]:
        base = read_catalogue(DEFAULT_CATALOGUE, storage).model(SDXL_REPOSITORY)
        yield from (CheckpointFolder(folder, base) for folder in folders["checkpoints"])
    for kind, reason in _UNSUPPORTED.items():
        yield from (UnsupportedFolder(folder, reason) for folder in folders[kind])
