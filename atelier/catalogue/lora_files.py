"""A LoRA described by its own files: the header of ID.safetensors, and ID.json beside it, which goes first.

Both may come from anywhere. Sizes are bounded, and what has a wrong type is refused with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from atelier.catalogue.beside import mistake, read_fields
from atelier.catalogue.entries import LoraEntry
from atelier.catalogue.header import Refused, bounded_json, read_header
from atelier.catalogue.watched_folder import SUFFIX
from atelier.core.adapters import LoraWeight

#: How layouts of LoRAs name their tensors: those of peft, diffusers and kohya, and LyCORIS' LoHa and LoKr.
_LORA = re.compile(r"lora[._](A|B|up|down|mid)\b|lora_linear_layer\b|hada_w|lokr_w")
_DORA = re.compile(r"dora_scale|lora_magnitude_vector")
_MAX_HEADER_TAGS, _MAX_TAG_CHARS, _MAX_DESCRIPTION_CHARS = 20, 200, 4000


def _words(value: object) -> object:
    """Convert a list of texts, or one text with commas as AUTOMATIC1111 writes it, to a tuple."""
    if isinstance(value, str):
        return _split(value)
    return tuple(value) if isinstance(value, list) else value


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class _Beside(BaseModel):
    """The JSON beside a file; other names in it are ignored, because programs keep their own there."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    title: str | None = None
    description: str | None = None
    author: str | None = None
    licence: str | None = Field(None, validation_alias=AliasChoices("licence", "license"))
    base: str | None = None
    weight: LoraWeight | None = None
    trigger_words: _Words | None = Field(None, validation_alias=AliasChoices("trigger_words", "activation text"))
    tags: _Words | None = None
    #: Name of an image in the same folder.
    preview: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")] | None = None


class LoraFile(NamedTuple):
    """A LoRA as its files describe it, without its preview."""

    entry: LoraEntry
    #: Name of the preview in the JSON.
    preview: str | None


def read_lora(file: Path, beside: Path | None) -> LoraFile:
    """Read a LoRA's header and the JSON beside it. Raises Refused."""
    header = read_header(file)
    if any(map(_DORA.search, header.shapes)):
        raise Refused("it is a DoRA, which is not supported")
    if not any(map(_LORA.search, header.shapes)):
        raise Refused("no tensor in it has a name of a LoRA")
    json = _Beside() if beside is None else _read_beside(beside)
    if json.base is None:
        _check_family(header.metadata)
    told = json.model_dump(exclude_none=True, exclude={"preview"})
    fields = {"id": file.name.removesuffix(SUFFIX), "file": file, **_described(header.metadata), **told}
    try:
        return LoraFile(LoraEntry.model_validate(fields), json.preview)
    except ValidationError as error:
        raise Refused(mistake(error)) from error


def _read_beside(file: Path) -> _Beside:
    fields = read_fields(file)
    # AUTOMATIC1111's name, whose 0 stands for none.
    fields.setdefault("weight", fields.get("preferred weight") or None)
    try:
        return _Beside.model_validate(fields)
    except ValidationError as error:
        raise Refused(f"{file.name}: {mistake(error)}") from error


def _check_family(metadata: Mapping[str, str]) -> None:
    """Raise Refused if the header says that the LoRA was trained for a model of another family than SDXL."""
    kohya = metadata.get("ss_base_model_version") or "sdxl"
    spec = metadata.get("modelspec.architecture") or "stable-diffusion-xl"
    for name, is_sdxl in ((kohya, kohya.startswith("sdxl")), (spec, spec.startswith("stable-diffusion-xl"))):
        if not is_sdxl:
            raise Refused(f"it was trained for {name[:_MAX_TAG_CHARS]}, which is not SDXL")


def _described(metadata: Mapping[str, str]) -> dict[str, object]:
    """Return the fields of an entry that the header has, in the names of ModelSpec and of kohya's scripts."""
    rank = metadata.get("ss_network_dim", "")
    return {
        "title": (metadata.get("modelspec.title") or metadata.get("ss_output_name") or "")[:_MAX_TAG_CHARS] or None,
        "description": metadata.get("modelspec.description", "")[:_MAX_DESCRIPTION_CHARS],
        "author": metadata.get("modelspec.author", "")[:_MAX_TAG_CHARS] or None,
        "licence": metadata.get("modelspec.license", "")[:_MAX_TAG_CHARS] or "unknown",
        "trigger_words": _split(metadata.get("modelspec.trigger_phrase", "")),
        "tags": _tags(metadata),
        "rank": int(rank) if re.fullmatch(r"[1-9][0-9]{0,5}", rank) else None,
    }


def _tags(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tags in ModelSpec's list or, without one, the most frequent of the captions it was trained with."""
    tags = _split(metadata.get("modelspec.tags", "")) or _frequent(metadata.get("ss_tag_frequency", "{}"))
    return tuple(tag for tag in tags if len(tag) <= _MAX_TAG_CHARS)[:_MAX_HEADER_TAGS]


def _frequent(text: str) -> tuple[str, ...]:
    """Return the tags of a JSON text `{folder: {tag: count}}`, the most frequent first. Raises Refused."""
    folders = bounded_json(text, "ss_tag_frequency in its header")
    counts = Counter[str]()
    for folder in folders.values() if isinstance(folders, dict) else [None]:
        if not isinstance(folder, dict) or not all(isinstance(count, int) for count in folder.values()):
            raise Refused("ss_tag_frequency in its header must hold numbers by tags by folders")
        counts.update({tag.strip(): count for tag, count in folder.items() if tag.strip()})
    return tuple(tag for tag, _ in counts.most_common())
