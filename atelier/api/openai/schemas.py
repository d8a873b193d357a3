"""Requests and responses of OpenAI's images and models API that this server supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from atelier.api.openai.input_images import InputImage, InputImages, OneInputImage
from atelier.api.openai.quality import Quality, ResolvedQuality, Style
from atelier.api.schemas import ControlMap, File
from atelier.core.params.delivery import OutputFormat, ResponseFormat
from atelier.core.params.generate import MAX_PROMPT_CHARS, GenerateParams
from atelier.core.params.pictures import ImageBytes
from atelier.core.sampling import Strength
from atelier.pipeline.resolve import Parameters

AnswerFormat = Literal["b64_json", "url", "file"]
#: Models whose images OpenAI returns as URLs by default.
_URL_MODELS = ("dall-e-2", "dall-e-3")


class ImagesParams(GenerateParams):
    """Fields of a generation: OpenAI's names and the server's own."""

    quality: Quality = Field(
        "auto",
        description="Number of steps where num_inference_steps is absent: low is half of the model's default, high "
        "and hd 1.5 times, xhigh twice, max three times, other values the default. With max, images are also "
        "upscaled to twice their size unless size, hires or an input image decides it.",
    )
    style: Style | None = Field(
        None,
        description="Guidance where guidance_scale is absent: vivid is 1.4 times the model's default, natural 0.7 "
        "times.",
    )
    background: Literal["auto", "opaque"] = Field(
        "auto", description="Background of the images; only opaque ones are generated."
    )
    moderation: Literal["auto", "low"] = Field("auto", description="Accepted and ignored: nothing is moderated.")


class ImagesGenerateRequest(ImagesParams):
    """POST /v1/images/generations"""

    response_format: AnswerFormat | None = Field(
        None,
        description="Base64 or URLs in the answer, or the image file itself, several as a ZIP. By default the "
        "server's default_response_format or, without one, url for the models dall-e-2 and dall-e-3, else b64_json.",
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(0, ge=0, le=3, description="Number of previews in a stream.")
    progress: bool = Field(False, description="Report every step in a stream: step, total, elapsed_s, eta_s.")
    user: str | None = Field(None, max_length=512, description="A label, returned as safety_identifier.")
    safety_identifier: str | None = Field(None, max_length=512, description="A label, returned as it is.")

    def delivered_as(self, default: ResponseFormat | None = None) -> AnswerFormat:
        """Return how images are returned: as requested, else in the server's default, else as OpenAI does it."""
        if self.stream:
            return "b64_json"
        return self.response_format or default or ("url" if self.model in _URL_MODELS else "b64_json")

    @property
    def label(self) -> str | None:
        return self.safety_identifier or self.user or None

    @model_validator(mode="after")
    def _streams_what_can_be_streamed(self) -> ImagesGenerateRequest:
        if not self.stream and (self.partial_images or self.progress):
            name = "partial_images" if self.partial_images else "progress"
            raise PydanticCustomError("needs_stream", "{param}: needs stream: true", {"param": name})
        if self.stream and self.response_format in ("url", "file"):
            context = {"param": "response_format", "value": self.response_format}
            raise PydanticCustomError("no_urls", "{param}: a stream carries b64_json, not {value}", context)
        return self


class ImagesEditRequest(ImagesGenerateRequest):
    """POST /v1/images/edits"""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["image"]}, {"required": ["images"]}]})

    image: InputImages | None = Field(None, description="The image to edit; required, here or as images.")
    images: InputImages | None = Field(None, description="Another name of image, as OpenAI's JSON bodies have it.")
    mask: InputImage | None = Field(None, description="Mask of the image's size; transparent pixels are painted.")
    markup: InputImage | None = Field(
        None,
        description="A drawing on a transparent ground, as large as the image and laid over it; not with a mask.",
    )
    input_fidelity: Literal["high", "low"] | None = Field(
        None,
        description="high keeps more of the image: strength 0.5 instead of 0.8. "
        "Models that edit by instructions have image_guidance_scale instead.",
    )
    #: Hidden from the schema: this route receives the init image as `image`.
    init_image: SkipJsonSchema[ImageBytes | None] = None

    @model_validator(mode="after")
    def _has_images_under_one_name(self) -> ImagesEditRequest:
        if self.image is None and self.images is None:
            raise PydanticCustomError("missing_image", "image is required.", {"param": "image"})
        if self.image is not None and self.images is not None:
            raise PydanticCustomError(
                "two_names", "images: image is the same; send one of them.", {"param": "images"}
            )
        return self

    @property
    def image_field(self) -> str:
        """The name under which the images to edit were sent."""
        return "image" if self.images is None else "images"

    @property
    def sent_as(self) -> dict[str, str]:
        """OpenAI's names under which images were sent, by our names for them."""
        sent = {"init_image": self.image_field}
        if self.mask is not None:
            sent["mask_image"] = "mask"
        if self.markup is not None:
            sent["markup_image"] = "markup"
        return sent

    @property
    def input_images(self) -> list[bytes]:
        """The images to edit, under either name."""
        return self.image or self.images or []


class ImagesVariationRequest(ImagesGenerateRequest):
    """POST /v1/images/variations"""

    _needs_prompt: ClassVar[bool] = False
    #: OpenAI's name under which the image is sent, by our name for it.
    sent_as: ClassVar[Mapping[str, str]] = {"init_image": "image"}

    prompt: str = Field("", max_length=MAX_PROMPT_CHARS, description="Optional prompt for the variations.")
    image: OneInputImage = Field(description="The image to vary.")
    strength: Strength = Field(0.6, description="How far to depart from the image.")
    #: Hidden from the schema: this route receives the init image as `image`.
    init_image: SkipJsonSchema[ImageBytes | None] = None


class Image(File):
    """One image of an answer."""

    seed: int
    parameters: Parameters = Field(description="The fields that make this image again.")


class InputTokens(BaseModel):
    """Number of input tokens, by kind."""

    text_tokens: int
    image_tokens: int


class OutputTokens(BaseModel):
    """Number of output tokens, by kind."""

    image_tokens: int
    text_tokens: Literal[0] = 0


class Usage(BaseModel):
    """Number of tokens used: text tokens of the prompt, and image tokens, one for 8 × 8 pixels."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class ImagesResponse(BaseModel):
    """The answer to a generation, an edit or a variation."""

    created: int = Field(description="Unix time in seconds.")
    background: Literal["opaque"] = "opaque"
    quality: ResolvedQuality
    usage: Usage
    safety_identifier: str | None = None
    data: list[Image]
    output_format: OutputFormat
    size: str
    upscaler: str | None = Field(
        None, description="Id of the upscaler that resized the images, or `bicubic` if it has no weights."
    )
    control_maps: list[ControlMap] | None = Field(None, description="Maps drawn by annotate, in order.")
    cached: bool = Field(False, description="Whether the images were made for an equal request before.")
    exactness_key: str = Field(
        description="Equal requests with `reproducibility: exact` return the same bits where this key is equal."
    )


class Model(BaseModel):
    """A model of this server."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time in seconds.")
    owned_by: str


class ModelList(BaseModel):
    """The models of this server."""

    object: Literal["list"] = "list"
    data: list[Model]
