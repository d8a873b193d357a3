"""OpenAI's requests and responses of the images and models API, as far as they exist here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from atelier.core.control import ControlKind
from atelier.core.params import MAX_PROMPT_CHARS, GenerateParams, OutputFormat, PictureBytes
from atelier.pipeline.plan import Parameters, ResolvedQuality


class ImagesGenerateRequest(GenerateParams):
    """POST /v1/images/generations"""

    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(0, ge=0, le=3, description="Previews sent while the picture is made, with stream.")
    progress: bool = Field(False, description="Tell every step, with stream: step, total, elapsed_s, eta_s.")
    user: str | None = Field(None, max_length=512, description="A label; it comes back as safety_identifier.")
    safety_identifier: str | None = Field(None, max_length=512, description="A label; it comes back.")

    @property
    def label(self) -> str | None:
        return self.safety_identifier or self.user or None

    @model_validator(mode="after")
    def _streams_what_can_be_streamed(self) -> ImagesGenerateRequest:
        if not self.stream and (self.partial_images or self.progress):
            name = "partial_images" if self.partial_images else "progress"
            raise PydanticCustomError("needs_stream", "{param}: needs stream: true", {"param": name})
        if self.stream and self.response_format == "url":
            name = "response_format"
            raise PydanticCustomError("no_urls", "{param}: a stream carries b64_json, not url", {"param": name})
        return self


class ImagesEditRequest(ImagesGenerateRequest):
    """POST /v1/images/edits, as a multipart form"""

    image: list[PictureBytes] = Field(min_length=1, max_length=16, description="The picture to edit.")
    mask: PictureBytes | None = Field(None, description="As large as the picture; transparent where to paint.")
    markup: PictureBytes | None = Field(
        None, description="A drawing as large as the picture and transparent elsewhere, laid over it; no mask then."
    )
    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="high stays nearer to the picture: strength 0.5 instead of 0.8."
    )


class ImagesVariationRequest(ImagesGenerateRequest):
    """POST /v1/images/variations, as a multipart form"""

    _needs_prompt: ClassVar[bool] = False

    prompt: str = Field("", max_length=MAX_PROMPT_CHARS, description="None is needed.")
    image: list[PictureBytes] = Field(min_length=1, max_length=1, description="The picture to vary.")
    strength: float = Field(0.6, gt=0, le=1, description="How far from the picture.")


class File(BaseModel):
    b64_json: str | None = None
    url: str | None = Field(None, description="Readable for the server's time to live, an hour by default.")


class Image(File):
    seed: int
    parameters: Parameters = Field(description="The fields that make this picture again.")


class ControlMap(BaseModel):
    kind: ControlKind
    b64_json: str = Field(description="A PNG.")


class InputTokens(BaseModel):
    text_tokens: int
    image_tokens: int


class OutputTokens(BaseModel):
    image_tokens: int
    text_tokens: Literal[0] = 0


class Usage(BaseModel):
    """Text tokens are the text encoder's; image tokens are latent positions, one for 8 × 8 pixels."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class ImagesResponse(BaseModel):
    created: int = Field(description="Unix time in seconds.")
    background: Literal["opaque"] = "opaque"
    quality: ResolvedQuality
    usage: Usage
    safety_identifier: str | None = None
    data: list[Image]
    output_format: OutputFormat
    size: str
    upscaler: str | None = Field(
        None, description="What made the pictures larger; bicubic where there are no weights."
    )
    control_maps: list[ControlMap] | None = Field(None, description="Those drawn by annotate, in order.")
    exactness_key: str = Field(
        description="Where it is the same, the same request with reproducibility exact gives the same bits."
    )


class UpscaleResponse(BaseModel):
    created: int = Field(description="Unix time in seconds.")
    data: list[File]
    output_format: OutputFormat
    size: str
    upscaler: str = Field(description="What made the picture larger; bicubic where there are no weights.")


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time in seconds.")
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
