"""Requests and answers of our own routes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atelier.api.schemas import File
from atelier.catalogue.capabilities import Capability
from atelier.catalogue.families import FamilyName
from atelier.core.control import ControlKind
from atelier.core.params import ImageBytes, OutputFormat, UpscaleStep


class UpscaleResponse(BaseModel):
    """An enlarged image."""

    created: int = Field(description="Unix time in seconds.")
    data: list[File]
    output_format: OutputFormat
    size: str
    upscaler: str = Field(description="Id of the upscaler that resized the image, or `bicubic` if it has no weights.")


class EnhanceParams(UpscaleStep):
    """POST /enhance-media"""

    image: ImageBytes = Field(description="A data URL, or base64 alone.")


class EnhancedMedia(BaseModel):
    """An enlarged image as a data URL."""

    image: str = Field(description="A PNG as a data URL.")
    width: int
    height: int
    scale: float
    model: str
    is_fallback: bool = Field(
        description="Whether the upscaler has no weights and the image was resized bicubically."
    )


class ModelCapabilities(BaseModel):
    """A model, its default settings and the sizes it supports."""

    id: str
    description: str
    licence: str
    default_size: str
    min_side_px: int
    max_side_px: int
    num_inference_steps: int
    guidance_scale: float
    family: FamilyName
    capabilities: dict[Capability, bool] = Field(
        description="What the model can do; a request for anything else is 501."
    )


class ControlNetCapabilities(BaseModel):
    """A ControlNet, the model it goes with, and its recommended scale."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    description: str
    licence: str
    kind: ControlKind
    base: str
    scale: float


class UpscalerCapabilities(BaseModel):
    """An upscaler; if its weights are missing, it resizes images bicubically instead."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    description: str
    licence: str
    has_weights: bool


class LoraCapabilities(BaseModel):
    """A LoRA: what it does, how it is used, and the models it goes with."""

    id: str
    object: Literal["lora"] = "lora"
    title: str | None
    description: str
    author: str | None
    licence: str
    models: list[str] = Field(description="Ids of the models of this server that it goes with.")
    weight: float = Field(description="Weight in requests that send none.")
    trigger_words: list[str] = Field(description="Words that are put into a prompt which lacks them.")
    tags: list[str]
    rank: int | None = Field(description="Rank of its matrices, if the file says it.")
    preview: str | None = Field(description="Path of its preview image on this server.")


class LoraList(BaseModel):
    """The LoRAs of this server, in the form of OpenAI's lists."""

    object: Literal["list"] = "list"
    data: list[LoraCapabilities]


class RefusedLora(BaseModel):
    """A file in the folder of LoRAs, or of the catalogue, that is not served."""

    file: str
    reason: str


class LoraReport(BaseModel):
    """The LoRAs of this server, and the files that it refuses."""

    loras: list[LoraCapabilities]
    refused: list[RefusedLora]


class RefusedModel(BaseModel):
    """A file in a folder of models that is not served."""

    file: str
    reason: str


class Served(BaseModel):
    """Models, ControlNets, LoRAs and upscalers that this server offers."""

    models: list[ModelCapabilities]
    controlnets: list[ControlNetCapabilities]
    loras: list[LoraCapabilities]
    upscalers: list[UpscalerCapabilities]


class Capabilities(Served):
    """Models, ControlNets, LoRAs, upscalers and features that this server offers."""

    name: Literal["Atelier"] = "Atelier"
    #: Names of the fields that a generation accepts.
    parameters: list[str]
    output_formats: list[str]
    #: Routes that answer 501 for now.
    not_supported: list[str]
    documentation: str = Field(description="Path of the documentation page on this server.")


class Status(BaseModel):
    """State of the router, or of the whole graph."""

    status: Literal["ok", "not ready"]
