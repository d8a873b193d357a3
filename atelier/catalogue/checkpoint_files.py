"""A base model described by its own files: the header of ID.safetensors, and ID.json or ID.yaml beside it.

JSON goes before YAML, and both before the header; the rest is as in SDXL base's entry. The files may come from
anywhere: what has a wrong type is refused with the reason. Of the weights, which take gigabytes, nothing is read.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from atelier.catalogue.beside import mistake, read_fields
from atelier.catalogue.checkpoint_header import check_sdxl
from atelier.catalogue.entries import DefaultSize, Files, ModelEntry, PredictionType
from atelier.catalogue.header import Refused, read_header
from atelier.catalogue.watched_folder import SUFFIX, real_path, shown
from atelier.core.geometry import PIXELS_PER_LATENT
from atelier.core.params.parsing import MAX_NAME_CHARS
from atelier.core.sampling import GuidanceScale, NumInferenceSteps

#: Endings of the files beside a checkpoint; those of later ones go first.
BESIDE = (".yaml", ".yml", ".json")

_MAX_TEXT_CHARS = 4000
_STRICT = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)
_Text = Annotated[str, Field(max_length=_MAX_TEXT_CHARS)]
_Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class _Named(BaseModel):
    """An id, which stands in addresses and in logs."""

    model_config = _STRICT

    id: Annotated[str, Field(max_length=MAX_NAME_CHARS, pattern=r"^[^\s/\\\p{Cc}][^/\\\p{Cc}]*$")]


class _Defaults(BaseModel):
    """Some of a model's defaults."""

    model_config = {**_STRICT, "extra": "forbid"}

    size: DefaultSize | None = None
    num_inference_steps: NumInferenceSteps | None = None
    guidance_scale: GuidanceScale | None = None
    negative_prompt: _Text | None = None


class _Sides(BaseModel):
    """Some of the bounds of an image's sides, in pixels."""

    model_config = {**_STRICT, "extra": "forbid"}

    min: Annotated[int, Field(ge=PIXELS_PER_LATENT)] | None = None
    max: int | None = None


class _Beside(BaseModel):
    """A file beside a checkpoint; other names in it are ignored, because programs keep their own there."""

    model_config = _STRICT

    description: _Text | None = None
    owned_by: _Name | None = Field(None, validation_alias=AliasChoices("owned_by", "author"))
    licence: _Name | None = Field(None, validation_alias=AliasChoices("licence", "license"))
    prediction_type: PredictionType | None = None
    zero_terminal_snr: bool | None = None
    sides_px: _Sides | None = None
    defaults: _Defaults | None = None
    #: Folder of configs and tokenizers, in the folder of the checkpoint.
    config: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")] | None = None


def read_checkpoint(file: Path, beside: Sequence[Path], base: ModelEntry) -> ModelEntry:
    """Describe a checkpoint by its files; `base` is the entry of SDXL base. Raises Refused."""
    header = read_header(file)
    check_sdxl(header)
    told: dict[str, object] = {"defaults": None, "sides_px": None, "config": None}
    for one in beside:
        told |= {name: value for name, value in _read_beside(one) if value is not None}
    defaults, sides, config = (told.pop(name) for name in ("defaults", "sides_px", "config"))
    fields: dict[str, object] = {
        **{name: getattr(base, name) for name in ModelEntry.model_fields},
        "aliases": (),
        "vae": None,
        "prediction_type": None,
        "zero_terminal_snr": None,
        **_described(header.metadata, file),
        **told,
        "files": _files(file, config, base),
        "defaults": base.defaults.model_copy(update=_given(defaults)),
        "sides_px": base.sides_px.model_copy(update=_given(sides)),
    }
    try:
        return ModelEntry.model_validate({**fields, "id": _Named(id=file.name.removesuffix(SUFFIX)).id})
    except ValidationError as error:
        raise Refused(mistake(error)) from error


def _read_beside(file: Path) -> _Beside:
    fields = read_fields(file)
    if file.suffix != ".json" and _parameterization(fields) == "v":
        fields.setdefault("prediction_type", "v_prediction")
    try:
        return _Beside.model_validate(fields)
    except ValidationError as error:
        raise Refused(f"{file.name}: {mistake(error)}") from error


def _parameterization(fields: Mapping[str, object]) -> object:
    """Return what LDM's config, which AUTOMATIC1111 reads beside a checkpoint, says that the UNet predicts."""
    match fields:
        case {"model": {"params": {"parameterization": parameterization}}}:
            return parameterization
    return None


def _given(fields: object) -> dict[str, object]:
    """Return the fields of a part of a file that are there."""
    return {name: value for name, value in fields if value is not None} if isinstance(fields, BaseModel) else {}


def _files(file: Path, config: object, base: ModelEntry) -> Files:
    """Return the checkpoint and its configs, by default those of SDXL base."""
    if not isinstance(config, str):
        return Files.model_validate({"file": file}, context={"storage": base.files.storage})
    folder = file.parent / config
    if not real_path(folder).is_relative_to(real_path(file.parent)):
        raise Refused(f"its config {shown(config)} is a link that leads out of the folder")
    return Files(file=file, config=Files(folder=folder))


def _described(metadata: Mapping[str, str], file: Path) -> dict[str, object]:
    """Return the fields of an entry that the header has, in ModelSpec's names."""
    title, text = (metadata.get(f"modelspec.{name}", "").strip() for name in ("title", "description"))
    return {
        "description": (": ".join(filter(None, (title, text))) or "An SDXL checkpoint.")[:_MAX_TEXT_CHARS],
        "owned_by": metadata.get("modelspec.author", "")[:MAX_NAME_CHARS] or "unknown",
        "licence": metadata.get("modelspec.license", "")[:MAX_NAME_CHARS] or "unknown",
        "created": _created(metadata.get("modelspec.date", ""), file),
    }


def _created(date: str, file: Path) -> datetime.date:
    """Return the date in the header or, without one, the day on which the file was written."""
    try:
        return datetime.datetime.fromisoformat(date).date()
    except ValueError:
        pass
    try:
        return datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC).date()
    except OSError as error:
        raise Refused(f"it cannot be read: {error.strerror}") from error
