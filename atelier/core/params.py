"""The wire table: what a client may ask for, the same over HTTP and by handle.

OpenAI's names where OpenAI has one. A name whose time has not come is known and refused with 501, unless
its value asks for what happens anyway; any other name is refused with 400. Defaults that depend on the
model are filled in by `atelier.pipeline.plan`.
"""

from __future__ import annotations

import base64
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from atelier.core.control import CANNY_THRESHOLDS, MAX_CONTROLS, ControlKind
from atelier.core.errors import (
    AtelierError,
    InvalidParameter,
    NotSupported,
    UnknownParameter,
    UnsupportedValue,
)
from atelier.core.sampling import Reproducibility, SamplerName, ScheduleName
from atelier.core.upscaling import MAX_SCALE

OutputFormat = Literal["png", "jpeg", "webp"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("png", "jpeg", "webp")

#: The value of a field without fields of its own, as JSON has it.
Scalar = str | int | float | bool

Quality = Literal["auto", "low", "medium", "standard", "high", "hd", "xhigh", "max"]

MAX_PROMPT_CHARS = 32_000
_MAX_NAME_CHARS = 200
MAX_SEED = 2**32 - 1

#: Known names that are not built yet, with the values that change nothing.
_NOT_YET: dict[str, tuple[object, ...]] = {
    "clip_skip": (0,),
    "loras": ([],),
    "ip_adapter": ([],),
    "priority": ("standard",),
    "stream": (False,),
    "partial_images": (0,),
}
#: OpenAI's formats that no model here makes, and the names that belong to them.
_NEVER_MADE = ("gif", "svg")
_NEVER = {"frame_count": "gif", "frame_duration_ms": "gif", "svg": "svg", "complexity": "svg"}


def _bytes_of_picture(value: object) -> object:
    """Base64, with or without a data URL's prefix; by handle also the bytes themselves."""
    if not isinstance(value, str):
        return value
    text = value.partition(";base64,")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise PydanticCustomError("base64", "must be a picture in base64") from error


#: A PNG of 32×32, for the documentation.
_RED_CIRCLE = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cHh7/Hx2WAAAARElEQVR42n3MsQ2AMADEwOOFxBgwCpvBaBklY1"
    "CghCKiQ7hw4cL8s1Ssl9hmsQe9y8QZSIzqU42SseodRxOliXq/+z8eGIwO/AhZZ7UAAAAASUVORK5CYII="
)

PictureBytes = Annotated[
    bytes,
    BeforeValidator(_bytes_of_picture),
    WithJsonSchema(
        {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*", "examples": [_RED_CIRCLE]}
    ),
]


class Params(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class AnnotateParams(Params):
    """A picture and the kind of map to draw from it."""

    image: PictureBytes = Field(description="PNG, JPEG or WebP.")
    kind: ControlKind
    low_threshold: int = Field(
        CANNY_THRESHOLDS[0], ge=0, le=255, description="Of canny: weaker gradients are no edges."
    )
    high_threshold: int = Field(
        CANNY_THRESHOLDS[1], ge=0, le=255, description="Of canny: stronger gradients are edges."
    )


class InspectParams(Params):
    """A file to be asked how its picture was made."""

    image: PictureBytes = Field(description="PNG, JPEG or WebP.")


class UpscaleStep(Params):
    """How much larger a generated picture becomes, and by what."""

    scale: float = Field(MAX_SCALE, ge=1, le=MAX_SCALE, description="Width and height are so many times larger.")
    model: str | None = Field(
        None, max_length=_MAX_NAME_CHARS, description="An upscaler's id from GET /; the server's first if absent."
    )


class HiresStep(UpscaleStep):
    """A second pass: the picture made larger, then denoised again at its new size."""

    scale: float = Field(2, gt=1, le=MAX_SCALE, description="Width and height are so many times larger.")
    strength: float = Field(0.5, gt=0, le=1, description="How far the second pass goes from the first.")
    steps: int | None = Field(None, ge=1, le=150, description="Of the second pass; as the first if absent.")


class UpscaleParams(UpscaleStep):
    """A picture to make larger."""

    image: PictureBytes = Field(description="PNG, JPEG or WebP; what is transparent in it stays so.")
    output_format: OutputFormat = "png"
    output_compression: int | None = Field(None, ge=0, le=100, description="Quality of JPEG and WebP files.")
    response_format: Literal["b64_json", "url"] = "b64_json"


class ControlParams(Params):
    """A ControlNet: which, the map that steers, how strongly and when."""

    model: str | None = Field(
        None, max_length=_MAX_NAME_CHARS, description="A ControlNet's id from GET /; or give its kind."
    )
    kind: ControlKind | None = Field(None, description="The ControlNet of this kind for the model.")
    image: PictureBytes = Field(description="The map; or, with annotate, the picture to draw it from.")
    annotate: bool = Field(False, description="Draw the map from the image; it comes back in control_maps.")
    low_threshold: int = Field(CANNY_THRESHOLDS[0], ge=0, le=255, description="Of canny, with annotate.")
    high_threshold: int = Field(CANNY_THRESHOLDS[1], ge=0, le=255, description="Of canny, with annotate.")
    scale: float | None = Field(
        None, ge=0, le=2, description="Strength; as recommended for the ControlNet if absent."
    )
    start: float = Field(0, ge=0, le=1, description="Share of the steps after which it begins to act.")
    end: float = Field(1, ge=0, le=1, description="Share of the steps after which it acts no more.")
    guess_mode: bool = Field(False, description="Follow the map without being told by the prompt what it shows.")

    @model_validator(mode="after")
    def _is_consistent(self) -> ControlParams:
        if (self.model is None) == (self.kind is None):
            raise PydanticCustomError("which", "give either model or kind")
        if self.start >= self.end:
            raise PydanticCustomError("window", "start must be below end")
        return self


class GenerateParams(Params):
    """One request for pictures from a text."""

    prompt: str = Field(
        max_length=MAX_PROMPT_CHARS,
        examples=["a red circle, white background"],
        description="What to draw; may be blank where there is an init_image.",
    )
    model: str | None = Field(
        None, max_length=_MAX_NAME_CHARS, description="An id from GET /v1/models; the server's first model if absent."
    )
    n: int = Field(1, ge=1, le=10, description="Number of pictures.")
    size: str = Field(
        "auto", max_length=_MAX_NAME_CHARS, description="WIDTHxHEIGHT in pixels, multiples of 8, or auto."
    )
    quality: Quality = Field(
        "auto",
        description="Steps, where num_inference_steps does not say: low half of the model's default, high and hd 1.5 "
        "times, xhigh twice, max three times; else the default. Where nothing says how large, max is also upscaled "
        "to twice the size.",
    )
    style: Literal["vivid", "natural"] | None = Field(
        None,
        description="Guidance, where guidance_scale does not say: vivid 1.4 times the default, natural 0.7 times.",
    )
    background: Literal["auto", "opaque"] = Field("auto", description="Pictures are opaque.")
    moderation: Literal["auto", "low"] = Field("auto", description="Nothing is moderated here, either way.")
    output_format: OutputFormat = "png"
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of JPEG and WebP files; 95 and 90 if absent. PNG has none."
    )
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT_CHARS)
    prompt_2: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="For the second text encoder; else prompt."
    )
    negative_prompt_2: str | None = Field(None, max_length=MAX_PROMPT_CHARS)
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description="-1 draws one; picture i has seed + i.")
    num_inference_steps: int | None = Field(None, ge=1, le=150)
    guidance_scale: float | None = Field(
        None, ge=0, le=30, description="At most 1 switches guidance off. Also known as true_cfg_scale."
    )
    guidance_rescale: float = Field(0, ge=0, le=1, description="Against over-exposure by strong guidance.")
    sampler: SamplerName = "euler"
    schedule: ScheduleName | None = Field(None, description="How the noise falls; the model's own if absent.")
    eta: float = Field(0, ge=0, le=1, description="Noise of the sampler ddim.")
    init_image: PictureBytes | None = Field(
        None,
        description="Start from this picture (PNG, JPEG, WebP); what is transparent in it is painted anew.",
    )
    mask_image: PictureBytes | None = Field(
        None, description="Paint only where it is transparent or, if it is opaque, white; the rest stays as it is."
    )
    markup_image: PictureBytes | None = Field(
        None, description="A drawing, transparent elsewhere, laid over init_image to guide it; goes without a mask."
    )
    strength: float | None = Field(
        None, gt=0, le=1, description="How far from init_image: 0.8 by default, 1 keeps least of it."
    )
    controls: Annotated[
        tuple[ControlParams, ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
        Field(max_length=MAX_CONTROLS),
        WithJsonSchema({"type": "array", "maxItems": MAX_CONTROLS, "items": ControlParams.model_json_schema()}),
    ] = ()
    hires: Annotated[HiresStep | None, WithJsonSchema(HiresStep.model_json_schema())] = Field(
        None, description="Draw the pictures again, larger; then upscale, if that is asked for too."
    )
    upscale: Annotated[UpscaleStep | None, WithJsonSchema(UpscaleStep.model_json_schema())] = Field(
        None, description="Make the pictures larger at the end."
    )
    reproducibility: Reproducibility = Field(
        "fast",
        description="exact: bit for bit the same for an equal exactness_key, whatever else the server does; slower.",
    )
    deadline_s: float | None = Field(None, gt=0, le=3600, description="Give up after so many seconds.")

    #: A variation needs none.
    _needs_prompt: ClassVar[bool] = True

    @model_validator(mode="after")
    def _says_what_to_draw(self) -> GenerateParams:
        if self._needs_prompt and self.init_image is None and not self.prompt.strip():
            raise PydanticCustomError(
                "blank", "prompt: must contain more than white space, without init_image", {"param": "prompt"}
            )
        return self

    @property
    def has_pictures(self) -> bool:
        """Whether any come with it."""
        return self.init_image is not None or bool(self.controls)

    @property
    def key(self) -> Hashable:
        """Equal where the same pictures are asked for."""
        return tuple((name, getattr(self, name)) for name in GenerateParams.model_fields)


#: By the fields that have fields of their own.
_INNER: dict[str, type[Params]] = {"controls": ControlParams, "hires": HiresStep, "upscale": UpscaleStep}

P = TypeVar("P", bound=Params)


def parse(kind: type[P], fields: Mapping[str, object]) -> P:
    """Check a client's fields; a null is the same as an absent field.

    Raises:
        UnknownParameter: a name that is not in the table.
        NotSupported: a name whose time has not come.
        InvalidParameter: a value of the wrong type or out of range; `param` names the field.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if "true_cfg_scale" in given:
        alias = given.pop("true_cfg_scale")
        if given.setdefault("guidance_scale", alias) != alias:
            raise InvalidParameter(
                "guidance_scale and true_cfg_scale are the same setting and differ; send one of them.",
                param="true_cfg_scale",
            )
    for name, harmless in _NOT_YET.items():
        if name in given and name not in kind.model_fields and given.pop(name) not in harmless:
            raise NotSupported(f"{name} is not supported by this server yet.", param=name)
    for name, what in _NEVER.items():
        if name in given:
            raise UnsupportedValue(f"{name} belongs to {what} files, which this server does not make.", param=name)
    if given.get("output_format") in _NEVER_MADE:
        raise UnsupportedValue(
            f"output_format: {given['output_format']!r} is not made here; allowed: {', '.join(OUTPUT_FORMATS)}.",
            param="output_format",
        )
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _translate(error, kind) from error


def _translate(error: ValidationError, kind: type[Params]) -> AtelierError:
    """The first problem, in words that name the field, the value and what is allowed."""
    problem = error.errors(include_url=False)[0]
    if not problem["loc"]:
        return InvalidParameter(problem["msg"], param=problem.get("ctx", {}).get("param"))
    name = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _INNER.get(str(problem["loc"][0]), kind) if len(problem["loc"]) > 1 else kind
        return UnknownParameter(f"Unknown field {name!r}. Known fields: {', '.join(known.model_fields)}.", param=name)
    if problem["type"] == "missing":
        return InvalidParameter(f"{name} is required.", param=name)
    return InvalidParameter(f"{name}: {problem['msg']}; got {_shown(problem['input'], name)}.", param=name)


def _shown(value: object, name: str) -> str:
    """Errors of handle calls are logged, and prompts are not."""
    if "prompt" in name:
        return f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _path(location: Sequence[str | int]) -> str:
    """Where in the fields, such as `controls[0].scale`."""
    first, *others = location
    path = str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in others)
    return _shortened(path)
