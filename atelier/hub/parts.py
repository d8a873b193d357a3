"""The files of a repository that each module is loaded from, as diffusers and transformers name them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from atelier.catalogue.families import FamilyName


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The files of a repository that one module is loaded from."""

    #: Folder in the repository; empty for its top.
    folder: str = ""
    #: Names of files that must be there.
    needed: tuple[str, ...] = ("config.json",)
    #: Patterns of further files, which not every repository has.
    optional: tuple[str, ...] = ()
    #: Name of the weights without variant and suffix; None for a module without weights.
    weights: str | None = None

    def patterns(self, variant: str | None) -> list[str]:
        """Return patterns of the part's files, relative to the repository."""
        index = [] if self.weights is None else [self._path(_index(self.weights, variant))]
        optional = map(self._path, self.optional)
        return [*self.needed_names(), *optional, *index, *self.weight_patterns(variant)]

    def needed_names(self) -> list[str]:
        """Return the names of files that must be there besides the weights, relative to the repository."""
        return [self._path(name) for name in self.needed]

    def weight_patterns(self, variant: str | None) -> list[str]:
        """Return patterns of the weight files, first that of a single one; empty for a module without weights."""
        if self.weights is None:
            return []
        shard = "-?????-of-?????"
        stems = [self.weights, f"{self.weights}{shard}"]
        if variant is not None:
            # Libraries have written the variant of a shard before and after its number.
            stems = [f"{self.weights}.{variant}", f"{self.weights}.{variant}{shard}", f"{stems[1]}.{variant}"]
        return [self._path(f"{stem}.safetensors") for stem in stems]

    def missing(self, folder: Path, variant: str | None) -> str | None:
        """Return the name of a file that is needed but not in a copy of the repository, or None."""
        names = self.needed_names()
        if self.weights is not None:
            names += self._weights(folder, variant)
        return next((name for name in names if not (folder / name).is_file()), None)

    def weight_files(self, folder: Path, variant: str | None) -> list[Path]:
        """Return the weight files in a copy of the repository."""
        return [folder / name for name in self._weights(folder, variant)]

    def _weights(self, folder: Path, variant: str | None) -> list[str]:
        """Return the names of the weight files: those that an index names, or else a single one."""
        assert self.weights is not None
        index = folder / self._path(_index(self.weights, variant))
        if index.is_file():
            shards: Iterable[str] = json.loads(index.read_text())["weight_map"].values()
            return [self._path(name) for name in sorted(set(shards))]
        return [self._path(f"{self.weights}.{variant}.safetensors" if variant else f"{self.weights}.safetensors")]

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name


def _index(weights: str, variant: str | None) -> str:
    """Return the name of the file that lists the weights' shards."""
    return f"{weights}.safetensors.index.{variant}.json" if variant else f"{weights}.safetensors.index.json"


_DIFFUSERS_WEIGHTS, _TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model", "model"

UNET = Part(folder="unet", weights=_DIFFUSERS_WEIGHTS)
VAE = Part(folder="vae", weights=_DIFFUSERS_WEIGHTS)
#: A VAE in a repository of its own.
SEPARATE_VAE = Part(weights=_DIFFUSERS_WEIGHTS)
PREVIEW_DECODER = Part(weights=_DIFFUSERS_WEIGHTS)
SCHEDULER = Part(folder="scheduler", needed=("scheduler_config.json",))
CONTROLNET = Part(weights=_DIFFUSERS_WEIGHTS)
DEPTH_ESTIMATOR = Part(needed=("config.json", "preprocessor_config.json"), weights=_TRANSFORMERS_WEIGHTS)
TEXT_ENCODER, TOKENIZER, TEXT_ENCODER_2, TOKENIZER_2 = (
    part
    for number in ("", "_2")
    for part in (
        Part(folder=f"text_encoder{number}", weights=_TRANSFORMERS_WEIGHTS),
        Part(folder=f"tokenizer{number}", needed=("tokenizer_config.json",), optional=("*.json", "*.txt")),
    )
)
#: The text encoders and tokenizers of each family's models.
TEXT_ENCODERS: Mapping[FamilyName, tuple[Part, ...]] = {
    "sdxl": (TEXT_ENCODER, TOKENIZER, TEXT_ENCODER_2, TOKENIZER_2),
    "sd15": (TEXT_ENCODER, TOKENIZER),
}
