"""The modules of catalogue entries as a ModelHost takes them: how they are loaded, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import safe_open

from atelier.catalogue.entries import ControlNetEntry, ModelEntry
from atelier.models.host import ModuleSource
from atelier.models.loading import (
    Placement,
    load_controlnet,
    load_text_encoder_modules,
    load_unet,
    load_vae,
    weight_files,
)
from atelier.models.parts import CONTROLNET, SEPARATE_VAE, TEXT_ENCODERS, UNET, VAE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

M = TypeVar("M", bound=torch.nn.Module)
#: Opens the weight files of a module.
WeightPaths = Callable[[], AbstractContextManager[list[Path]]]


def text_encoders_source(entry: ModelEntry, placement: Placement) -> ModuleSource[torch.nn.ModuleList]:
    """Return where a model's two text encoders come from; they are one module, because they are used together."""
    on_cpu = replace(placement, device="cpu")

    def load() -> torch.nn.ModuleList:
        modules = load_text_encoder_modules(entry, on_cpu)
        return torch.nn.ModuleList([modules.encoder, modules.encoder_2])

    parts = [part for part in TEXT_ENCODERS if part.weights is not None]
    source = _of_files(entry, partial(weight_files, entry.id, entry.files, parts), load, placement)
    return replace(source, leaves_after_use=placement.memory.leaves_after_use)


def unet_source(entry: ModelEntry, placement: Placement) -> ModuleSource[UNet2DConditionModel]:
    """Return where a model's UNet comes from."""
    load = partial(_load_convolutions, partial(load_unet, entry), placement)
    return _of_files(entry, unet_paths(entry), load, placement)


def unet_paths(entry: ModelEntry) -> WeightPaths:
    """Return a function that opens the weight files of a model's UNet."""
    return partial(weight_files, entry.id, entry.files, [UNET])


def vae_source(entry: ModelEntry, placement: Placement) -> ModuleSource[AutoencoderKL]:
    """Return where a model's VAE comes from."""
    files, part = (entry.files, VAE) if entry.vae is None else (entry.vae, SEPARATE_VAE)
    load = partial(_load_convolutions, partial(load_vae, entry), placement)
    source = _of_files(entry, partial(weight_files, entry.id, files, [part]), load, placement)
    return replace(source, leaves_after_use=placement.memory.leaves_after_use)


def controlnet_source(entry: ControlNetEntry, placement: Placement) -> ModuleSource[ControlNetModel]:
    """Return where a ControlNet comes from."""
    load = partial(_load_convolutions, partial(load_controlnet, entry), placement)
    return _of_files(None, partial(weight_files, entry.id, entry.files, [CONTROLNET]), load, placement)


def _load_convolutions(load: Callable[[Placement], M], placement: Placement) -> M:
    """Load a module into host memory, channels-last: convolutions read such weights faster, on the CPU by 3–20 %."""
    module = load(replace(placement, device="cpu"))
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's types
    return module


def _of_files(
    entry: ModelEntry | None, paths: WeightPaths, load: Callable[[], M], placement: Placement
) -> ModuleSource[M]:
    def num_bytes() -> int:
        with paths() as files:
            return sum(map(_num_values, files)) * placement.dtype.itemsize

    def stamp() -> object:
        with paths() as files:
            return [stamp_of(path) for path in files]

    return ModuleSource(
        load=load,
        num_bytes=num_bytes,
        stamp=stamp,
        is_kept=entry is not None and entry.keep,
        is_exclusive=entry is not None and entry.exclusive,
    )


def _num_values(path: Path) -> int:
    """Return the number of values in a safetensors file, of which only the header is read."""
    with safe_open(path, framework="pt") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118 no mapping


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Return what changes with the content of a file."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
