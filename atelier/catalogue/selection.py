"""Which models of which catalogue to serve: the part of a graph's arguments that fetching them needs, too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from atelier.catalogue.catalogue import DEFAULT_CATALOGUE, Catalogue, read_catalogue
from atelier.catalogue.storage import Storage


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
    require_weights: bool = Field(
        True,
        description="Whether a replica fails to start if a model's files are not on its machine. If false, it "
        "downloads repositories of the hub while it starts, and an upscaler without its file is bicubic.",
    )

    def read(self, environment: Mapping[str, str]) -> Catalogue:
        """Read the catalogue and keep the selected models; ATELIER_MODELS_DIR says where their files are.

        Raises:
            CatalogueError: the catalogue is missing or wrong.
            ModelNotFound: an id is not in the catalogue.
        """
        storage = Storage.from_environment(environment, require_weights=self.require_weights)
        catalogue = read_catalogue(self.catalogue, storage)
        loras_dir = storage.loras_dir if self.loras_dir is None else self.loras_dir.expanduser().absolute()
        return catalogue.only(
            self.models, self.controlnets, self.annotators, self.upscalers, self.loras, lora_folders=[loras_dir]
        )
