"""The data classes of the catalogue: what a model is called, where its files are, what suits it.

Knows nothing of how files are loaded. Clients choose among these ids only: no path or address that a
client sends is ever opened.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from atelier.core.control import ControlKind

#: Latents are eight times smaller than pictures.
PIXELS_PER_LATENT = 8

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Size(Entry):
    """Width and height of a picture in pixels, written `128x96`."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Raises ValueError if the text is not WIDTHxHEIGHT."""
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError(f"expected WIDTHxHEIGHT, got {text!r}")
        return cls(width=int(match[1]), height=int(match[2]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def _size_from_text(value: object) -> object:
    return Size.parse(value) if isinstance(value, str) else value


def _beside_the_catalogue(value: object, info: ValidationInfo) -> object:
    folder: Path = (info.context or {}).get("folder", Path())
    return (folder / value).resolve() if isinstance(value, str) else value


class Files(Entry):
    """Where files are: a local folder, or a repository on the hub."""

    folder: Annotated[Path, BeforeValidator(_beside_the_catalogue)] | None = None
    repository: str | None = None
    revision: str | None = None
    #: Suffix of the weight files to take, such as fp16.
    variant: str | None = None

    @model_validator(mode="after")
    def _is_one_place(self) -> Files:
        if (self.folder is None) == (self.repository is None):
            raise ValueError("give either folder or repository")
        return self

    @property
    def source(self) -> str:
        return str(self.folder or self.repository)


class Sides(Entry):
    """Allowed width and height of a picture in pixels; multiples of 8."""

    min: int = Field(ge=PIXELS_PER_LATENT)
    max: int

    def allow(self, size: Size) -> bool:
        return all(
            self.min <= side <= self.max and side % PIXELS_PER_LATENT == 0 for side in (size.width, size.height)
        )


class Defaults(Entry):
    """What a request means that does not say."""

    size: Annotated[Size, BeforeValidator(_size_from_text)]
    num_inference_steps: int = Field(ge=1, le=150)
    guidance_scale: float = Field(ge=0, le=30)
    #: None: guidance runs against zeros where the model was trained so, else against the empty text.
    negative_prompt: str | None = None


RgbFactors = tuple[float, float, float]


class ModelEntry(Entry):
    """A base model of SDXL's architecture."""

    id: str
    description: str
    owned_by: str
    created: datetime.date
    licence: str
    files: Files
    #: Another VAE than the model's own.
    vae: Files | None = None
    sides_px: Sides
    #: How latents look: for previews red, green and blue, in −1 … 1, of each of the four channels and of none.
    latent_rgb: tuple[RgbFactors, RgbFactors, RgbFactors, RgbFactors, RgbFactors] | None = None
    defaults: Defaults

    @model_validator(mode="after")
    def _default_size_is_allowed(self) -> ModelEntry:
        if not self.sides_px.allow(self.defaults.size):
            raise ValueError(f"default size {self.defaults.size} is outside sides_px")
        return self

    @property
    def created_unix_s(self) -> int:
        midnight = datetime.datetime.combine(self.created, datetime.time(), datetime.UTC)
        return int(midnight.timestamp())


class ControlNetEntry(Entry):
    """A ControlNet of SDXL's architecture."""

    id: str
    description: str
    licence: str
    files: Files
    #: The model it was trained beside.
    base: str
    kind: ControlKind
    #: Recommended conditioning scale.
    scale: float = Field(gt=0, le=2)


class UpscalerEntry(Entry):
    """A network of Real-ESRGAN in one safetensors file; without the file pictures are enlarged bicubically."""

    id: str
    description: str
    licence: str
    file: Annotated[Path, BeforeValidator(_beside_the_catalogue)]

    @property
    def has_weights(self) -> bool:
        return self.file.is_file()


class AnnotatorEntry(Entry):
    """A model that draws control maps: a depth estimator as transformers has them."""

    id: str
    description: str
    licence: str
    files: Files
    kind: Literal["depth"]
