"""Where ComfyUI and AUTOMATIC1111 keep the models of each kind, below a root folder, and ComfyUI's file of paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import yaml

from atelier.catalogue.catalogue import CatalogueError

Kind = Literal["checkpoints", "loras", "upscalers", "controlnets", "embeddings"]

#: Names of the folders of each kind: ComfyUI's, then AUTOMATIC1111's. They lie in the root folder or its `models`.
_NAMES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "checkpoints": ("checkpoints", "Stable-diffusion"),
    "loras": ("loras", "Lora"),
    "upscalers": ("upscale_models", "ESRGAN", "RealESRGAN"),
    "controlnets": ("controlnet", "ControlNet"),
    "embeddings": ("embeddings",),
}
#: ComfyUI's keys of the same kinds in `extra_model_paths.yaml`.
_KEYS: Final[Mapping[str, Kind]] = {
    "checkpoints": "checkpoints",
    "loras": "loras",
    "upscale_models": "upscalers",
    "controlnet": "controlnets",
    "embeddings": "embeddings",
}
_EXTRA_PATHS = "extra_model_paths.yaml"


def find_model_folders(roots: Iterable[Path]) -> Mapping[Kind, tuple[Path, ...]]:
    """Return the folders of each kind below ComfyUI's or AUTOMATIC1111's root folders, or their folders `models`.

    They need not exist yet. Raises CatalogueError if a root does not exist, or if the file of paths in it is wrong.
    """
    found: dict[Kind, dict[Path, None]] = {kind: {} for kind in get_args(Kind)}
    for root in roots:
        if not root.is_dir():
            raise CatalogueError(f"model_folders: there is no folder {root}.")
        for kind, folder in [*_below(root), *_extra(root / _EXTRA_PATHS)]:
            found[kind][folder.resolve()] = None
    return {kind: tuple(folders) for kind, folders in found.items()}


def _below(root: Path) -> Iterator[tuple[Kind, Path]]:
    for kind, names in _NAMES.items():
        for name in names:
            yield kind, root / "models" / name
            yield kind, root / name


def _extra(file: Path) -> Iterator[tuple[Kind, Path]]:
    """Yield the folders that a file of paths names: for each program a base path, and a path per line and kind."""
    if not file.is_file():
        return
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CatalogueError(f"{file}: {error}") from error
    programs = {} if content is None else content
    if not isinstance(programs, dict) or not all(isinstance(paths, dict) for paths in programs.values()):
        raise CatalogueError(f"{file}: each program needs a mapping of kinds to paths")
    for program, paths in programs.items():
        base = file.parent / Path(_text(file, program, paths, "base_path")).expanduser()
        for key, kind in _KEYS.items():
            for line in _text(file, program, paths, key).split("\n"):
                if line.strip():
                    yield kind, base / line.strip()


def _text(file: Path, program: object, paths: Mapping[str, object], key: str) -> str:
    text = paths.get(key) or ""
    if not isinstance(text, str):
        raise CatalogueError(f"{file}: {program}.{key} must be a text, a path in each line")
    return text
