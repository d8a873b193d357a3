"""Requests and answers of the simple routes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from atelier.api.native.schemas import ModelCapabilities, RefusedModel
from atelier.core.adapters import MAX_LORAS
from atelier.core.jobs import JobState
from atelier.core.params import LoraParams, Params
from atelier.core.params.generate import MAX_PROMPT_CHARS, MAX_SEED, CacheUse
from atelier.core.params.parsing import MAX_NAME_CHARS, at_most
from atelier.core.sampling import SamplerName

_MAX_SIDE_PX = 8192


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


_Side = Annotated[int | None, Field(ge=8, le=_MAX_SIDE_PX)]


class SimpleParams(Params):
    """POST /generate"""

    prompt: str = Field(
        max_length=MAX_PROMPT_CHARS, description="Prompt.", examples=["a red circle, white background"]
    )
    negative_prompt: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="Negative prompt; the model's default if absent."
    )
    model: str | None = Field(
        None, max_length=MAX_NAME_CHARS, description="Id from GET /models; the first one by default."
    )
    loras: Annotated[
        tuple[LoraParams, ...],
        Field(max_length=MAX_LORAS, description="LoRAs from GET /loras, with their weights."),
        BeforeValidator(_as_tuple),
        at_most(MAX_LORAS),
    ] = Field(())
    steps: int | None = Field(
        None,
        ge=10,
        le=100,
        description="Number of denoising steps; 30 if absent, or the model's default if that is below 10.",
    )
    guidance_scale: float | None = Field(
        None,
        ge=1,
        le=30,
        description="Classifier-free guidance; 7.5 if absent, or the default of a model of fewer than 10 steps.",
    )
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description="The same seed makes the same image; −1 draws one.")
    width: _Side = Field(None, description="Width in pixels, with height; the model's default size if absent.")
    height: _Side = Field(None, description="Height in pixels, with width.")
    sampler: SamplerName | None = Field(None, description="Sampling method; the model's default if absent.")

    @model_validator(mode="after")
    def _has_both_sides(self) -> SimpleParams:
        if (self.width is None) != (self.height is None):
            absent = "height" if self.height is None else "width"
            raise PydanticCustomError("one_side", "{param} is required: send both or neither.", {"param": absent})
        return self


class SimpleImageParams(SimpleParams):
    """POST /generate-image"""

    cache: CacheUse = Field(
        "prefer", description="prefer: the image of an equal request before it, if there is one; off: a new one."
    )


class SimpleJob(BaseModel):
    """The job that makes an image."""

    job_id: str
    status: JobState
    status_url: str
    image_url: str


class SimpleStatus(BaseModel):
    """How far a job is."""

    job_id: str
    status: JobState
    progress: float = Field(description="Share of its steps that are done, from 0 to 1.")
    step: int | None = None
    total_steps: int | None = None
    elapsed_s: float | None = None
    eta_s: float | None = Field(None, description="Seconds until it is expected to end.")
    position: int | None = Field(None, description="Number of jobs that are due before it, while it waits.")
    image_url: str | None = Field(None, description="Address of the image, once it is there.")
    error: str | None = Field(None, description="Why it failed.")


class SimpleImage(BaseModel):
    """An image."""

    image: str = Field(description="A PNG as a data URL.")
    cached: bool = Field(description="Whether it was made for an equal request before.")
    model: str
    seed: int
    width: int
    height: int
    generation_time_s: float = Field(description="Seconds from the request to its answer.")


class SimpleModels(BaseModel):
    """The models of this server."""

    object: Literal["list"] = "list"
    default: str
    models: list[ModelCapabilities]
    refused: list[RefusedModel]
