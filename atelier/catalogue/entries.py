"""The entries of the catalogue: a model's id, its files, its defaults.

Loading is left to `atelier.models`. Clients choose among these ids; no path or URL from a client is ever opened.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    model_validator,
)

from atelier.catalogue.families import FAMILIES, FamilyName, FamilyTraits
from atelier.catalogue.storage import Storage
from atelier.core.adapters import LoraWeight
from atelier.core.control import MAX_CONTROL_SCALE, ControlKind
from atelier.core.geometry import PIXELS_PER_LATENT, Size
from atelier.core.params.generate import MAX_PROMPT_CHARS
from atelier.core.params.parsing import MAX_NAME_CHARS
from atelier.core.sampling import (
    SAMPLERS,
    GuidanceScale,
    ImageGuidanceScale,
    NumInferenceSteps,
    SamplerName,
    ScheduleName,
)

#: The model whose configs and tokenizers go with SDXL checkpoints, at the commit in catalogue.yaml.
SDXL_REPOSITORY = "stabilityai/stable-diffusion-xl-base-1.0"
SDXL_REVISION = "462165984030d82259a11f4367a4eed129e94a7b"

PredictionType = Literal["epsilon", "v_prediction"]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _size_from_text(value: object) -> object:
    return Size.parse(value) if isinstance(value, str) else value


def _beside_the_catalogue(value: object, info: ValidationInfo) -> object:
    folder: Path = (info.context or {}).get("folder", Path())
    # Not resolved, because the hub's cache has links to files without a suffix.
    return Path(os.path.abspath(folder / value)) if isinstance(value, str) else value


def _storage(context: object) -> Storage:
    """Return the storage in the context of a validation; the default one outside of `read_catalogue`."""
    storage = context.get("storage") if isinstance(context, dict) else None
    return storage if isinstance(storage, Storage) else Storage()


class Files(Entry):
    """Location of a model's files: a local folder, a repository on the Hugging Face hub, or a single file."""

    folder: Annotated[Path, BeforeValidator(_beside_the_catalogue)] | None = None
    repository: str | None = None
    revision: str | None = None
    #: Suffix of the weight files to load, such as fp16.
    variant: str | None = None
    #: Checkpoint in the original layout, in safetensors. Only base models and VAEs have it.
    file: Annotated[Path, BeforeValidator(_beside_the_catalogue)] | None = None
    #: Folder or repository with the configs and tokenizers of `file`; None is `SDXL_REPOSITORY`.
    config: Files | None = None
    _storage: Storage = PrivateAttr(default=Storage())

    def model_post_init(self, context: object) -> None:
        self._storage = _storage(context)

    @model_validator(mode="after")
    def _is_one_place(self) -> Files:
        if sum(place is not None for place in (self.folder, self.repository, self.file)) != 1:
            raise ValueError("give either folder, repository or file")
        if self.file is not None and self.file.suffix != ".safetensors":
            raise ValueError(f"file {self.file.name} is not safetensors; a pickle such as .ckpt may run code")
        if self.config is not None and (self.file is None or self.config.file is not None):
            raise ValueError("config is a folder or repository, and goes with file")
        return self

    @property
    def source(self) -> str:
        return str(self.folder or self.repository or self.file)

    @property
    def configs(self) -> Files:
        """Location of the configs and tokenizers: these files, or `config` for a single file."""
        if self.file is None:
            return self
        if self.config is not None:
            return self.config
        sdxl = {"repository": SDXL_REPOSITORY, "revision": SDXL_REVISION}
        return Files.model_validate(sdxl, context={"storage": self._storage})

    @property
    def storage(self) -> Storage:
        """Where files of the hub lie on this machine, and whether they must be there."""
        return self._storage


def _of_several_files(files: Files) -> Files:
    if files.file is not None:
        raise ValueError("give folder or repository; only base models and VAEs may be a single file")
    return files


#: Files of a model that is not read from a checkpoint in the original layout.
SeparateFiles = Annotated[Files, AfterValidator(_of_several_files)]


class Sides(Entry):
    """Allowed range of an image's width and height in pixels; both must also be multiples of 8."""

    min: int = Field(ge=PIXELS_PER_LATENT)
    max: int

    def allow(self, size: Size) -> bool:
        """Return whether the model supports images of this size."""
        return size.is_whole_latents and all(self.min <= side <= self.max for side in (size.width, size.height))

    def nearest(self, size: Size) -> Size:
        """Return the allowed size whose width and height are nearest to those of `size`."""
        width, height = (min(max(side, self.min), self.max) for side in (size.width, size.height))
        return Size(width=width, height=height).in_whole_latents()


#: A size that is written as text.
DefaultSize = Annotated[Size, BeforeValidator(_size_from_text)]


class Defaults(Entry):
    """Defaults for fields that a request leaves out."""

    size: DefaultSize
    num_inference_steps: NumInferenceSteps
    guidance_scale: GuidanceScale
    #: For models that edit by instructions; the default of diffusers.
    image_guidance_scale: ImageGuidanceScale = 1.5
    #: If None, it is that of the family.
    negative_prompt: str | None = None
    sampler: SamplerName = "euler"
    #: Schedule of requests whose sampler has it; if None, that of the model's own scheduler.
    schedule: ScheduleName | None = None
    #: Text that replaces a blank prompt, for models that never saw an empty one.
    empty_prompt: str = Field("", max_length=MAX_PROMPT_CHARS)

    @model_validator(mode="after")
    def _sampler_has_schedule(self) -> Defaults:
        schedules = SAMPLERS[self.sampler].schedules
        if self.schedule is not None and self.schedule not in schedules:
            raise ValueError(f"the sampler {self.sampler} goes with {', '.join(schedules)}; got {self.schedule!r}")
        return self


_Rgb = tuple[float, float, float]
#: Linear latent-to-RGB projection: four rows of weights, one per latent channel, and a bias row; RGB in −1 … 1.
LatentRgb = tuple[_Rgb, _Rgb, _Rgb, _Rgb, _Rgb]


class ModelEntry(Entry):
    """A base model: its UNet, text encoders and VAE."""

    id: str
    #: Other names that requests may use for the model: some clients always send OpenAI's names.
    aliases: tuple[str, ...] = ()
    #: Architecture of the model: the name of a package in `atelier.families`.
    family: FamilyName = "sdxl"
    description: str
    owned_by: str
    created: datetime.date
    licence: str
    files: Files
    #: A VAE that replaces the model's own.
    vae: Files | None = None
    #: Overrides what the files say that the UNet predicts.
    prediction_type: PredictionType | None = None
    #: Overrides whether the files say that training began at pure noise (Lin et al. 2024).
    zero_terminal_snr: bool | None = None
    sides_px: Sides
    #: Whether the model edits by instructions (InstructPix2Pix): its UNet reads the image in four more channels.
    edits: bool = False
    #: Whether replicas load the model before they are ready, or when the first request names it.
    preload: bool = True
    #: Whether the model stays on the device once it is there, and whether no other model may be there with it.
    keep: bool = False
    exclusive: bool = False
    #: A small decoder for previews, diffusers' AutoencoderTiny.
    preview_decoder: Files | None = None
    #: Projection from latents to preview RGB, for a model without a preview decoder.
    latent_rgb: LatentRgb | None = None
    defaults: Defaults

    @model_validator(mode="after")
    def _default_size_is_allowed(self) -> ModelEntry:
        if not self.sides_px.allow(self.defaults.size):
            raise ValueError(f"default size {self.defaults.size} is outside sides_px")
        return self

    @property
    def traits(self) -> FamilyTraits:
        """What all models of its family have in common."""
        return FAMILIES[self.family]

    @property
    def negative_prompt(self) -> str | None:
        """The negative prompt of requests without one; None stands for embeddings of zeros."""
        own = self.defaults.negative_prompt
        return self.traits.negative_prompt if own is None else own

    @property
    def has_previews(self) -> bool:
        return self.preview_decoder is not None or self.latent_rgb is not None

    @property
    def created_unix_s(self) -> int:
        midnight = datetime.datetime.combine(self.created, datetime.time(), datetime.UTC)
        return int(midnight.timestamp())


class ControlNetEntry(Entry):
    """A ControlNet of its base model's architecture."""

    id: str
    description: str
    licence: str
    files: SeparateFiles
    #: Id of the base model that the ControlNet was trained for.
    base: str
    kind: ControlKind
    #: Recommended conditioning scale.
    scale: float = Field(gt=0, le=MAX_CONTROL_SCALE)


#: Without what would end a tag such as <lora:ID:0.8>, and without what would lead out of a folder.
_LORA_ID = r"^[^\s.<>:/\\\p{Cc}]([^<>:/\\\p{Cc}]*[^\s<>:/\\\p{Cc}])?$"
_LoraText = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
#: A word, or several such as "neon style".
TriggerWord = Annotated[_LoraText, Field(pattern=r"^[^<>]*\w[^<>]*$")]


class LoraEntry(Entry):
    """A LoRA in one safetensors file."""

    id: str = Field(max_length=MAX_NAME_CHARS, pattern=_LORA_ID)
    title: str | None = Field(None, max_length=MAX_NAME_CHARS)
    description: str = Field(max_length=4000)
    author: str | None = Field(None, max_length=MAX_NAME_CHARS)
    licence: str = Field(max_length=MAX_NAME_CHARS)
    file: Annotated[Path, BeforeValidator(_beside_the_catalogue)]
    #: Id of the base model that the LoRA was trained for; if None, it goes with every SDXL model.
    base: str | None = None
    #: Weight in requests that send none.
    weight: LoraWeight = 1.0
    #: Words that are put into the prompt.
    trigger_words: tuple[TriggerWord, ...] = Field((), max_length=20)
    tags: tuple[_LoraText, ...] = Field((), max_length=50)
    #: An image that shows what the LoRA does.
    preview: Annotated[Path, BeforeValidator(_beside_the_catalogue)] | None = None
    #: Rank of its matrices, as far as the file says it.
    rank: int | None = Field(None, ge=1)

    def goes_with(self, model: ModelEntry) -> bool:
        """Return whether the LoRA may be applied to the model."""
        return model.family == "sdxl" if self.base is None else model.id == self.base


class UpscalerEntry(Entry):
    """A Real-ESRGAN network in one safetensors file."""

    id: str
    description: str
    licence: str
    #: If the entry names none, the file is that of `Storage.upscaler_file`.
    file: Annotated[Path, BeforeValidator(_beside_the_catalogue)]
    _storage: Storage = PrivateAttr(default=Storage())

    @model_validator(mode="before")
    @classmethod
    def _add_file(cls, fields: Any, info: ValidationInfo) -> Any:
        if not isinstance(fields, dict) or "file" in fields or "id" not in fields:
            return fields
        return {**fields, "file": _storage(info.context).upscaler_file(str(fields["id"]))}

    def model_post_init(self, context: object) -> None:
        self._storage = _storage(context)

    @property
    def is_required(self) -> bool:
        """Whether an Upscaler without the file does not start, instead of resizing bicubically."""
        return self._storage.require_weights

    @property
    def has_weights(self) -> bool:
        """Whether replicas upscale by the network; the file of a required one is there wherever they run."""
        return self.is_required or self.file.is_file()


class AnnotatorEntry(Entry):
    """A model that draws control maps: a depth estimator from the transformers library."""

    id: str
    description: str
    licence: str
    files: SeparateFiles
    kind: Literal["depth"]
