"""Folders of a user's models as readers of a `ModelLibrary`: checkpoints, and files that are not supported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from atelier.catalogue.checkpoint_files import BESIDE, read_checkpoint
from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.header import Refused
from atelier.catalogue.watched_folder import RefusedFile, WatchedFolder


class CheckpointFolder:
    """Reads base models from a folder of checkpoints, each once until it changes. Not thread-safe."""

    def __init__(self, folder: Path, base: ModelEntry) -> None:
        """`base` is the entry of SDXL base, which says what the files leave out."""
        self._files = WatchedFolder(folder, partial(_read, base), BESIDE)

    def __call__(self) -> Iterator[ModelEntry | RefusedFile]:
        """Yield the models in the folder, and the files that are refused."""
        return self._files.read()


class UnsupportedFolder:
    """Refuses every file of weights in a folder, for the same reason. Not thread-safe."""

    def __init__(self, folder: Path, reason: str) -> None:
        self._files = WatchedFolder(folder, partial(_refuse, reason), ())

    def __call__(self) -> Iterator[RefusedFile]:
        """Yield the files in the folder."""
        return self._files.read()


def _read(base: ModelEntry, file: Path, beside: Sequence[Path]) -> ModelEntry:
    return read_checkpoint(file, beside, base)


def _refuse(reason: str, file: Path, beside: Sequence[Path]) -> RefusedFile:  # noqa: ARG001 they are not read
    raise Refused(reason)
