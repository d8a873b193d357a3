"""Which files of a repository are downloaded: those that loading needs, in safetensors only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from atelier.core.errors import UnsupportedValue
from atelier.core.params.download import InstalledKind
from atelier.hub.parts import SCHEDULER, TEXT_ENCODERS, UNET, VAE
from atelier.hub.repository import HubFile, Repository

MODEL_PARTS = (UNET, SCHEDULER, *TEXT_ENCODERS["sdxl"], VAE)
#: Suffixes of weight files, the preferred first: half precision is what GPUs compute in.
_VARIANTS = ("fp16", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The files of a repository to download."""

    kind: InstalledKind
    files: tuple[HubFile, ...]
    #: Suffix of a model's weight files.
    variant: str | None = None

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


def chosen(repository: Repository, kind: InstalledKind | None = None, file: str | None = None) -> Choice:
    """Return the files to download. Raises UnsupportedValue if the repository cannot be used, with the reason."""
    held = kind or repository.kind
    if not repository.safetensors:
        raise _refusal(repository, "has no weights in safetensors; pickles may run code and are not downloaded")
    match held:
        case "lora":
            return Choice(kind="lora", files=(_lora_file(repository, file),))
        case "model":
            return _model(repository, file)
        case None:
            raise UnsupportedValue(
                f"kind: the repository {repository.id!r} does not say what it holds; send `model` or `lora`.",
                param="kind",
            )
        case _:
            raise _refusal(repository, f"holds a {held}; only models and LoRAs are downloaded")


def _lora_file(repository: Repository, name: str | None) -> HubFile:
    files = repository.safetensors
    if name is None and len(files) == 1:
        return files[0]
    for file in files:
        if file.name == name:
            return file
    known = ", ".join(repr(file.name) for file in files)
    problem = "has several; name one" if name is None else f"has no {name!r}"
    raise UnsupportedValue(f"file: the repository {repository.id!r} {problem} of: {known}.", param="file")


def _model(repository: Repository, file: str | None) -> Choice:
    if file is not None:
        raise UnsupportedValue("file: a model is downloaded whole; only a LoRA is one file.", param="file")
    names = {one.name for one in repository.files}
    missing = ""
    for variant in _VARIANTS:
        missing = next(_missing(names, variant), "")
        if not missing:
            patterns = [pattern for part in MODEL_PARTS for pattern in part.patterns(variant)]
            files = [one for one in repository.files if any(fnmatchcase(one.name, pattern) for pattern in patterns)]
            return Choice(kind="model", files=tuple(files), variant=variant)
    raise _refusal(repository, f"is not an SDXL model in diffusers' layout with safetensors: it has no {missing}")


def _missing(names: Collection[str], variant: str | None) -> Iterator[str]:
    """Yield what is missing of a model's files, as far as their names say it."""
    for part in MODEL_PARTS:
        yield from (name for name in part.needed_names() if name not in names)
        weights = part.weight_patterns(variant)
        if weights and not any(fnmatchcase(name, pattern) for name in names for pattern in weights):
            yield weights[0]


def _refusal(repository: Repository, why: str) -> UnsupportedValue:
    return UnsupportedValue(f"repository: {repository.id!r} {why}.", param="repository")
