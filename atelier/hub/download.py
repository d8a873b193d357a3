"""The files of a repository onto this machine, with the space and the bytes counted."""

from __future__ import annotations

import glob
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.utils import tqdm

from atelier.core.errors import StorageFull
from atelier.core.jobs import Progress, Transfer
from atelier.hub.choice import Choice
from atelier.hub.failures import hub_errors
from atelier.hub.transfer import Source, Stopped, fetch

_MIB = 2**20


class Meter:
    """Tells how far a download is, from the files that are here."""

    def __init__(self, source: Source, choice: Choice) -> None:
        """Begin to measure the speed."""
        self._source, self._choice = source, choice
        self._start_s, self._bytes_before = time.monotonic(), self._done_bytes()

    def progress(self) -> Progress:
        """Return how far it is now. Looks at the files."""
        elapsed_s, done_bytes = time.monotonic() - self._start_s, self._done_bytes()
        received = done_bytes - self._bytes_before
        return Progress(
            step=sum(self._source.has(file) for file in self._choice.files),
            total=len(self._choice.files),
            elapsed_s=elapsed_s,
            transfer=Transfer(
                done_bytes=done_bytes,
                total_bytes=self._choice.num_bytes,
                bytes_per_s=received / elapsed_s if received > 0 else None,
            ),
        )

    def _done_bytes(self) -> int:
        return self._choice.num_bytes - num_missing_bytes(self._source, self._choice)


class _Silent(tqdm):
    """A bar that is not shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


def num_missing_bytes(source: Source, choice: Choice) -> int:
    """Return the number of bytes that are still to be downloaded."""
    return sum(source.num_missing_bytes(file) for file in choice.files)


def check_space(source: Source, choice: Choice) -> None:
    """Raise StorageFull, with what is missing, if the files do not fit onto the disk of the cache."""
    needed = num_missing_bytes(source, choice)
    folder = next(one for one in (source.cache, *source.cache.parents) if one.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageFull(
            f"The download of {source.repository!r} needs {_mib(needed)} more on the disk of the models, which has "
            f"{_mib(free)} free: {_mib(needed - free)} are missing."
        )


def download(source: Source, choice: Choice, stop: threading.Event) -> Path:
    """Download the files that are not there, and return the folder of the repository at the commit. Blocks.

    Raises Stopped soon after `stop` is set, and what `fetch` and `hub_errors` raise.
    """
    with hub_errors(source.repository, source.commit):
        for file in choice.files:
            if file.sha256 is not None:
                fetch(source, file, stop)
        # The small files, and the links from the names of all files to their content.
        folder = snapshot_download(
            source.repository,
            revision=source.commit,
            cache_dir=source.cache,
            endpoint=source.endpoint,
            allow_patterns=[glob.escape(file.name) for file in choice.files],
            tqdm_class=_Silent,
        )
    if stop.is_set():
        raise Stopped
    return Path(folder)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:,.0f} MiB"
