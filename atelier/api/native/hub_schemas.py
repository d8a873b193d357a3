"""Answers of the routes of the model hub."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from atelier.api.native.job_schemas import InstalledModel
from atelier.core.params import RepositoryKind


class HubModelFile(BaseModel):
    """A file of weights of a repository."""

    name: str
    num_bytes: int


class HubModel(BaseModel):
    """A repository of the model hub."""

    name: str = Field(description="Id of the repository, as OWNER/NAME.")
    kind: RepositoryKind | None = Field(description="What it holds; null if neither tags nor files say it.")
    base_model: str | None = Field(description="Id of the model that it was made from.")
    licence: str = Field(description="Id of the licence, for `accept_licence`.")
    licence_link: str = Field(description="Where the licence is, or else the page of the repository.")
    revision: str = Field(description="Commit of its main branch.")
    downloads: int = Field(description="Number of downloads in the last month.")
    likes: int
    is_gated: bool = Field(description="Whether the account of HF_TOKEN must accept its terms on its page.")
    has_safetensors: bool
    is_installed: bool
    can_be_installed: bool
    reason: str | None = Field(description="Why it cannot be installed as it is.")
    num_bytes: int | None = Field(description="Size of the download; null if it cannot be installed.")
    files: list[HubModelFile] = Field(description="Its files of weights in safetensors.")


class HubModelList(BaseModel):
    """Repositories, the most downloaded first."""

    object: Literal["list"] = "list"
    data: list[HubModel]


class InstalledList(BaseModel):
    """What was downloaded, in the order of the ids."""

    object: Literal["list"] = "list"
    data: list[InstalledModel]


class Removed(BaseModel):
    """What was removed."""

    id: str
    object: Literal["installed"] = "installed"
    deleted: Literal[True] = True
