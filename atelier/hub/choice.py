"""Which files of a repository are downloaded: those that loading needs, in safetensors only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
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
    #: Whether it is one of several files that could be chosen: a LoRA, or a model's checkpoint.
    is_one_file: bool = False

    @property
    def file(self) -> str | None:
        """Name of a LoRA's or checkpoint's file; None for a model of several files."""
        return self.files[0].name if self.is_one_file else None

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a model in one file, in the original layout."""
        return self.kind == "model" and self.is_one_file

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
            return Choice(kind="lora", files=(_one_file(repository, file),), is_one_file=True)
        case "model":
            return _model(repository, file)
        case None:
            raise UnsupportedValue(
                f"kind: the repository {repository.id!r} does not say what it holds; send `model` or `lora`.",
                param="kind",
            )
        case _:
            raise _refusal(repository, f"holds a {held}; only models and LoRAs are downloaded")


def configs_of(repository: Repository) -> Choice:
    """Return the configs and tokenizers of a model, which go with a checkpoint."""
    parts = [replace(part, weights=None) for part in MODEL_PARTS]
    return Choice(kind="model", files=_matching(repository, [one for part in parts for one in part.patterns(None)]))


def _one_file(repository: Repository, name: str | None) -> HubFile:
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
    """Return the parts of a model in diffusers' layout, or the checkpoint that `file` names or that is alone."""
    names = {one.name for one in repository.files}
    has_layout = any(name.startswith(f"{UNET.folder}/") for name in names)
    if file is not None or not has_layout:
        return Choice(kind="model", files=(_one_file(repository, file),), is_one_file=True)
    missing = ""
    for variant in _VARIANTS:
        missing = next(_missing(names, variant), "")
        if not missing:
            patterns = [pattern for part in MODEL_PARTS for pattern in part.patterns(variant)]
            return Choice(kind="model", files=_matching(repository, patterns), variant=variant)
    raise _refusal(repository, f"is not an SDXL model in diffusers' layout with safetensors: it has no {missing}")


def _matching(repository: Repository, patterns: Collection[str]) -> tuple[HubFile, ...]:
    return tuple(one for one in repository.files if any(fnmatchcase(one.name, pattern) for pattern in patterns))


def _missing(names: Collection[str], variant: str | None) -> Iterator[str]:
    """Yield what is missing of a model's files, as far as their names say it."""
    for part in MODEL_PARTS:
        yield from (name for name in part.needed_names() if name not in names)
        weights = part.weight_patterns(variant)
        if weights and not any(fnmatchcase(name, pattern) for name in names for pattern in weights):
            yield weights[0]


def _refusal(repository: Repository, why: str) -> UnsupportedValue:
    return UnsupportedValue(f"repository: {repository.id!r} {why}.", param="repository")
