"""A request for images, from a prompt or from a prompt and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from atelier.core.adapters import MAX_LORAS
from atelier.core.control import MAX_CONTROLS
from atelier.core.geometry import Size
from atelier.core.params.controls import ControlParams
from atelier.core.params.delivery import OutputCompression, OutputFormat
from atelier.core.params.loras import LoraParams
from atelier.core.params.parsing import MAX_NAME_CHARS, NotBuilt, Params, at_most
from atelier.core.params.pictures import ImageBytes
from atelier.core.params.upscale import HiresStep, UpscaleStep
from atelier.core.priority import Priority
from atelier.core.sampling import (
    GuidanceScale,
    ImageGuidanceScale,
    NumInferenceSteps,
    Reproducibility,
    SamplerName,
    ScheduleName,
    Strength,
)

CacheUse = Literal["auto", "prefer", "off"]

MAX_PROMPT_CHARS = 32_000
MAX_SEED = 2**32 - 1
AUTO = "auto"


def _is_unused(value: object) -> bool:
    """Return whether the value is a zero or an empty list, which changes nothing in a generation."""
    return not value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class GenerateParams(Params):
    """One request for images.

    Serialised, it holds the fields that reproduce an image; input images, `n`, priority, deadline and `cache` are
    left out.
    """

    prompt: str = Field(
        max_length=MAX_PROMPT_CHARS,
        examples=["a red circle, white background"],
        description="Prompt; may be blank with an init_image or loras.",
    )
    model: str | None = Field(
        None, max_length=MAX_NAME_CHARS, description="Id from GET /v1/models; the server's first model by default."
    )
    n: int = Field(1, ge=1, le=10, description="Number of images.", exclude=True)
    size: str = Field(AUTO, max_length=MAX_NAME_CHARS, description="WIDTHxHEIGHT in pixels, multiples of 8, or auto.")
    output_format: OutputFormat = Field("png", description="Format of the image files.")
    output_compression: OutputCompression = None
    negative_prompt: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="Negative prompt; the model's default if absent."
    )
    prompt_2: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="Prompt of the second text encoder; prompt by default."
    )
    negative_prompt_2: str | None = Field(
        None,
        max_length=MAX_PROMPT_CHARS,
        description="Negative prompt of the second text encoder; negative_prompt by default.",
    )
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description="Image i has seed + i; −1 draws a seed.")
    num_inference_steps: NumInferenceSteps | None = Field(
        None, description="Number of denoising steps; the model's default if absent."
    )
    guidance_scale: GuidanceScale | None = Field(
        None, description="Classifier-free guidance; at most 1 switches it off. The model's default if absent."
    )
    guidance_rescale: float = Field(
        0, ge=0, le=1, description="Against over-exposure by strong guidance.", exclude_if=_is_unused
    )
    image_guidance_scale: ImageGuidanceScale | None = Field(
        None,
        description="How closely an edit by an instruction keeps to init_image, for models that edit so; the model's "
        "default if absent.",
    )
    sampler: SamplerName | None = Field(None, description="Sampling method; the model's default if absent.")
    schedule: ScheduleName | None = Field(
        None,
        description="Noise schedule; the model's default if absent, where the sampler has it.",
    )
    eta: float = Field(0, ge=0, le=1, description="Noise of the ddim sampler.", exclude_if=_is_unused)
    init_image: ImageBytes | None = Field(
        None,
        description="Image to start from (PNG, JPEG, WebP); transparent parts are painted anew.",
        exclude=True,
    )
    mask_image: ImageBytes | None = Field(
        None,
        description="Where to paint: where it is transparent or, if it is opaque, white. The rest is kept.",
        exclude=True,
    )
    markup_image: ImageBytes | None = Field(
        None,
        description="A drawing on a transparent ground, laid over init_image as a guide; not with a mask.",
        exclude=True,
    )
    strength: Strength | None = Field(
        None, description="How far to depart from init_image: 0.8 by default, 1 keeps the least of it."
    )
    controls: Annotated[
        tuple[ControlParams, ...],
        Field(max_length=MAX_CONTROLS, description="ControlNets to apply."),
        BeforeValidator(_as_tuple),
        at_most(MAX_CONTROLS),
    ] = Field((), exclude_if=_is_unused)
    loras: Annotated[
        tuple[LoraParams, ...],
        Field(
            max_length=MAX_LORAS,
            description="LoRAs to apply, each once; `<lora:ID:WEIGHT>` in a prompt names one, too.",
        ),
        BeforeValidator(_as_tuple),
        at_most(MAX_LORAS),
    ] = Field((), exclude_if=_is_unused)
    hires: HiresStep | None = Field(
        None, description="Denoise the images a second time at a larger size; upscale comes after it."
    )
    upscale: UpscaleStep | None = Field(None, description="Enlarge the finished images.")
    reproducibility: Reproducibility = Field(
        "fast",
        description="exact: the same bits for an equal exactness_key, whatever else the server is doing; slower.",
    )
    priority: Priority = Field(
        "standard",
        description="interactive: ahead of other requests; batch: behind them, and steps aside when they come.",
        exclude=True,
    )
    deadline_s: float | None = Field(
        None, gt=0, le=3600, description="Seconds after which the request is cancelled with an error.", exclude=True
    )

    cache: CacheUse = Field(
        "auto",
        description="auto: a request with a seed returns the images of an equal one before it; prefer: one without a "
        "seed does, too; off: the images are made anew, and not kept.",
        exclude=True,
    )

    not_built: ClassVar[Mapping[str, NotBuilt]] = {
        "clip_skip": NotBuilt(0, "leave it out"),
        "ip_adapter": NotBuilt([], "use init_image or controls instead"),
    }
    #: Whether a request with neither an init_image nor LoRAs must have a prompt.
    _needs_prompt: ClassVar[bool] = True

    @field_validator("size")
    @classmethod
    def _is_readable(cls, size: str) -> str:
        if size != AUTO:
            try:
                Size.parse(size)
            except ValueError as error:
                raise PydanticCustomError("size", "expected WIDTHxHEIGHT or auto") from error
        return size

    @model_validator(mode="after")
    def _says_what_to_draw(self) -> GenerateParams:
        says_it_elsewhere = self.init_image is not None or self.loras
        if self._needs_prompt and not says_it_elsewhere and not self.prompt.strip():
            raise PydanticCustomError(
                "blank",
                "prompt: must contain more than white space, without init_image or loras",
                {"param": "prompt"},
            )
        return self

    @property
    def image_files(self) -> dict[str, bytes]:
        """All image files that were sent with the request, by their fields."""
        files = {name: getattr(self, name) for name in ("init_image", "mask_image", "markup_image")}
        files |= {f"controls[{index}].image": control.image for index, control in enumerate(self.controls)}
        return {name: data for name, data in files.items() if data is not None}
