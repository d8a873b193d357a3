"""A folder of upscalers of Real-ESRGAN's architectures, in safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from atelier.catalogue.entries import UpscalerEntry
from atelier.catalogue.header import Refused, read_header
from atelier.catalogue.storage import Storage
from atelier.catalogue.watched_folder import SUFFIX, RefusedFile, WatchedFolder

#: Tensors of RRDBNet, in the names of Real-ESRGAN; SRVGGNetCompact has nothing but a numbered body.
_RRDBNET = frozenset({"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"})
_COMPACT = re.compile(r"body\.[0-9]+\.(weight|bias)")


class UpscalerFolder:
    """Reads the upscalers in a folder."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._files = WatchedFolder(folder, partial(_read, storage), ())

    def entries(self) -> Iterator[UpscalerEntry]:
        """Yield the upscalers."""
        yield from (found for found in self._files.read() if not isinstance(found, RefusedFile))

    def refused(self) -> Iterator[RefusedFile]:
        """Yield the files that are refused; a `ModelReader`."""
        yield from (found for found in self._files.read() if isinstance(found, RefusedFile))


def _read(storage: Storage, file: Path, beside: Sequence[Path]) -> UpscalerEntry:  # noqa: ARG001 none is read
    names = set(read_header(file).shapes)
    if not names >= _RRDBNET and not all(map(_COMPACT.fullmatch, names)):
        raise Refused("it is neither RRDBNet nor SRVGGNetCompact in Real-ESRGAN's names")
    fields = {"id": file.name.removesuffix(SUFFIX), "description": "An upscaler.", "licence": "unknown", "file": file}
    return UpscalerEntry.model_validate(fields, context={"storage": storage})
