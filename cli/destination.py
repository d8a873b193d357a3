"""Where images are saved, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import typer

from cli.answers import JobFile, JobResult
from cli.failures import Failure

_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_SUFFIXES = {"jpeg": ".jpg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A file, a folder, or names that say what the images are."""

    path: Path | None
    #: Whether existing files are replaced.
    replaces: bool
    #: Name of images that have no seed.
    subject: str
    _written: set[Path] = field(default_factory=set)

    def check(self) -> None:
        """Refuse a path that cannot be written, before the work is done. Raises BadParameter."""
        if self.path is None or self.path.is_dir():
            return
        if not self.path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {self.path.parent}", param_hint="--output")
        if self.path.exists() and not self.replaces:
            raise typer.BadParameter(f"{self.path} exists; --force replaces it", param_hint="--output")

    def save(self, image: JobFile, result: JobResult, data: bytes) -> Path:
        """Write an image and return its path: that of the first free name. Raises Failure."""
        mode = "wb" if self.replaces else "xb"
        for path in _numbered(self._wanted(image, result)):
            if path in self._written:
                continue
            try:
                with path.open(mode) as file:
                    file.write(data)
            except FileExistsError:
                continue
            except OSError as error:
                raise Failure(f"Cannot write {path}: {error.strerror}.") from None
            self._written.add(path)
            return path
        raise AssertionError("there are always more numbers")

    def _wanted(self, image: JobFile, result: JobResult) -> Path:
        if self.path is not None and not self.path.is_dir():
            return self.path
        known = None if image.parameters is None else image.parameters.model
        name = f"{self.subject}-{result.size}" if known is None else f"{known}-{image.seed}"
        suffix = _SUFFIXES.get(result.output_format, f".{result.output_format}")
        return (self.path or Path()) / f"{_NOT_IN_NAMES.sub('-', name)}{suffix}"


def _numbered(path: Path) -> Iterator[Path]:
    """Yield the path, and then the same with a 2, 3, … before its suffix."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
