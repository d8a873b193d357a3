"""The files that loading needs, where they are on this machine, and how they come here.

Only weights in safetensors are looked for or downloaded, never pickles. This module imports neither torch nor the
libraries that load models, so that fetching files needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, LoraEntry, ModelEntry, UpscalerEntry
from atelier.core.errors import ModelUnavailable
from atelier.hub.parts import (
    CONTROLNET,
    DEPTH_ESTIMATOR,
    PREVIEW_DECODER,
    SCHEDULER,
    SEPARATE_VAE,
    TEXT_ENCODERS,
    UNET,
    VAE,
    Part,
)

FETCH = "python -m atelier.models.fetch CONFIG"
_CONVERT = "python -m atelier.models.convert_upscaler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder or repository, and the parts of it that a catalogue entry needs."""

    #: The entry as errors name it, such as "Model 'tiny-sdxl'".
    entry: str
    files: Files
    parts: tuple[Part, ...]

    @property
    def place(self) -> str:
        """The folder, or the repository with its revision."""
        return f"{self.files.source} at {self.files.revision}" if self.files.revision else self.files.source

    def local_folder(self) -> Path:
        """Return the folder on this machine that has every part.

        Raises ModelUnavailable if it is not there; the message names the entry, the path and the command to run.
        """
        if self.files.folder is not None:
            if not self.files.folder.is_dir():
                raise ModelUnavailable(
                    f"{self.entry}: the folder {self.files.folder} does not exist. Correct `files.folder` in the "
                    "catalogue; models of the zoo are made by `make zoo`."
                )
            return self.files.folder
        try:
            folder = self._snapshot(local_files_only=True)
        except LocalEntryNotFoundError as error:
            raise ModelUnavailable(self._absent("its files are")) from error
        if name := self._missing(folder):
            raise ModelUnavailable(self._absent(f"{name} is"))
        return folder

    def download(self, tqdm_class: type | None = None) -> Path:
        """Download the parts that are not on this machine, and return their folder.

        Several processes may do so at once, because the hub's cache locks each file. Raises what
        `huggingface_hub.snapshot_download` raises, and ModelUnavailable if the repository lacks a file.
        """
        folder = self._snapshot(tqdm_class=tqdm_class)
        if name := self._missing(folder):
            raise ModelUnavailable(
                f"{self.entry}: the repository {self.place} has no {name}. Correct `files` in the catalogue: "
                "`variant` must be one that the repository has in safetensors."
            )
        return folder

    def _snapshot(self, *, local_files_only: bool = False, tqdm_class: type | None = None) -> Path:
        patterns = [pattern for part in self.parts for pattern in part.patterns(self.files.variant)]
        return Path(
            snapshot_download(
                self.files.source,
                revision=self.files.revision,
                cache_dir=self.files.storage.hub_cache,
                allow_patterns=patterns,
                local_files_only=local_files_only,
                tqdm_class=tqdm_class,
            )
        )

    def _missing(self, folder: Path) -> str | None:
        return next((name for part in self.parts if (name := part.missing(folder, self.files.variant))), None)

    def _absent(self, what: str) -> str:
        cache = self.files.storage.hub_cache or "the hub's cache"
        return (
            f"{self.entry}: {what} not in {cache}, for the repository {self.place}. Fetch it on this machine by "
            f"`{FETCH}`, with the same ATELIER_MODELS_DIR, or set `require_weights: false`."
        )


def sources(catalogue: Catalogue) -> Iterator[Source]:
    """Yield the folder or repository of every entry of the catalogue but the upscalers and LoRAs."""
    for model in catalogue.models:
        yield _of_model(model)
        if model.vae is not None:
            yield source_of(f"Model {model.id!r}", model.vae, vae_part(model))
        if model.preview_decoder is not None:
            entry = f"Preview decoder of {model.id!r}"
            yield Source(entry=entry, files=model.preview_decoder, parts=(PREVIEW_DECODER,))
    for controlnet in catalogue.controlnets:
        yield Source(entry=f"Model {controlnet.id!r}", files=controlnet.files, parts=(CONTROLNET,))
    for annotator in catalogue.annotators:
        yield Source(entry=f"Model {annotator.id!r}", files=annotator.files, parts=(DEPTH_ESTIMATOR,))


def _of_model(model: ModelEntry) -> Source:
    own_vae = () if model.vae else (VAE,)
    parts = (UNET, SCHEDULER, *TEXT_ENCODERS[model.family], *own_vae)
    return source_of(f"Model {model.id!r}", model.files, *parts)


def source_of(entry: str, files: Files, *parts: Part) -> Source:
    """Return the source of the parts; for a single file that of the configs, which lie elsewhere."""
    if files.file is None:
        return Source(entry=entry, files=files, parts=parts)
    return Source(entry=entry, files=files.configs, parts=tuple(replace(part, weights=None) for part in parts))


def vae_part(model: ModelEntry) -> Part:
    """Return the part that the model's VAE is loaded from; configs of a single file are those of a whole model."""
    return SEPARATE_VAE if model.vae is not None and model.vae.file is None else VAE


def absent_upscaler(entry: UpscalerEntry) -> str:
    """Return the message for an upscaler whose file is not on this machine."""
    return (
        f"Upscaler {entry.id!r}: the file {entry.file} does not exist. Convert the published one by "
        f"`{_CONVERT} {entry.id}.pth {entry.file}`, or set `require_weights: false` to resize bicubically."
    )


def absent_lora(entry: LoraEntry) -> str:
    """Return the message for a LoRA whose file is not on this machine."""
    return (
        f"LoRA {entry.id!r}: the file {entry.file} does not exist. Put it there, or correct `file` in the catalogue."
    )


def absent_checkpoint(model: ModelEntry, file: Path) -> str:
    """Return the message for a base model or its VAE whose single file is not on this machine."""
    return f"Model {model.id!r}: the file {file} does not exist. Put it there, or correct `file` in the catalogue."


def absent_files(catalogue: Catalogue) -> list[str]:
    """Return a message for every checkpoint, upscaler and LoRA of the catalogue whose file is not on this machine."""
    checkpoints = [
        absent_checkpoint(model, files.file)
        for model in catalogue.models
        for files in (model.files, model.vae)
        if files is not None and files.file is not None and not files.file.is_file()
    ]
    upscalers = [absent_upscaler(entry) for entry in catalogue.upscalers if not entry.file.is_file()]
    loras = [absent_lora(entry) for entry in catalogue.lora_entries if not entry.file.is_file()]
    return checkpoints + upscalers + loras


def absent(catalogue: Catalogue) -> list[str]:
    """Return a message for every entry of the catalogue whose files are not on this machine."""
    messages = []
    for source in sources(catalogue):
        try:
            source.local_folder()
        except ModelUnavailable as error:
            messages.append(error.message)
    return messages + absent_files(catalogue)
