"""One large file from the hub into its cache on this machine, from the byte where an earlier attempt has ended.

huggingface_hub goes on after a broken connection, but begins anew in another process: since its version 2 each
download has a file of its own, which is deleted when it fails. That is not good enough for gigabytes of weights. Here
the part that has arrived keeps the name `SHA256.incomplete` in the cache's folder, under the lock that
huggingface_hub itself takes for that file. The whole file gets its place in the cache only if it has the SHA-256 of
the hub's metadata.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status

from atelier.core.errors import HubFileCorrupt, HubUnavailable
from atelier.hub.repository import HubFile

#: Seconds after which a wait for the lock looks whether it is to be stopped.
_LOCK_S = 0.5
#: Maximum number of connections in a row that break without bringing a byte; seconds between two of them.
_MAX_FAILURES, _PAUSE_S = 5, 1.0


class Stopped(Exception):
    """The download was stopped from outside; what has arrived is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A repository at a commit, and the cache that its files belong to."""

    endpoint: str
    repository: str
    commit: str
    cache: Path

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache."""
        return self.cache / self._name

    def blob(self, file: HubFile) -> Path:
        """Return where the whole content of a large file lies."""
        assert file.sha256 is not None, "the content of small files is left to huggingface_hub"
        return self.folder / "blobs" / file.sha256

    def partial(self, file: HubFile) -> Path:
        """Return where the part of a large file lies that has arrived so far."""
        return self.blob(file).with_suffix(".incomplete")

    def lock(self, file: HubFile) -> Path:
        """Return the file that huggingface_hub locks while it downloads a file."""
        return self.cache / ".locks" / self._name / f"{file.sha256}.lock"

    def has(self, file: HubFile) -> bool:
        """Return whether the whole content of a file is here."""
        place = self.folder / "snapshots" / self.commit / file.name if file.sha256 is None else self.blob(file)
        return place.exists()

    def num_missing_bytes(self, file: HubFile) -> int:
        """Return the number of bytes that are still to be downloaded."""
        if self.has(file):
            return 0
        return file.num_bytes if file.sha256 is None else max(file.num_bytes - size_of(self.partial(file)), 0)

    @property
    def _name(self) -> str:
        return str(repo_folder_name(repo_id=self.repository, repo_type="model"))


def size_of(file: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def fetch(source: Source, file: HubFile, stop: threading.Event) -> None:
    """Download a large file into the cache, unless it is there. Blocks.

    While another process downloads the same file, this one waits and then uses that.

    Raises Stopped soon after `stop` is set, HubFileCorrupt if the file is not the one that the hub's metadata
    describe, HubUnavailable if the hub sends no more, and what huggingface_hub raises.
    """
    blob, partial = source.blob(file), source.partial(file)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with _locked(source.lock(file), stop):
        if blob.exists():
            return
        if size_of(partial) > file.num_bytes:
            partial.unlink()
        _receive(source, file, stop)
        _check(partial, file)
        os.replace(partial, blob)


@contextmanager
def _locked(file: Path, stop: threading.Event) -> Iterator[None]:
    """Hold a lock that other processes take for the same file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            if stop.is_set():
                raise Stopped
            try:
                stack.enter_context(WeakFileLock(file, timeout=_LOCK_S))
            except TimeoutError:
                continue
            break
        yield


def _receive(source: Source, file: HubFile, stop: threading.Event) -> None:
    """Fill the partial file, over as many connections as it takes."""
    partial, num_failures = source.partial(file), 0
    partial.touch()
    while (start := size_of(partial)) < file.num_bytes:
        if stop.is_set():
            raise Stopped
        try:
            _receive_once(source, file, stop)
        except httpx2.TransportError:
            num_failures = 1 if size_of(partial) > start else num_failures + 1
            if num_failures == _MAX_FAILURES:
                raise
            stop.wait(_PAUSE_S)
        else:
            if size_of(partial) <= start:
                raise HubUnavailable(f"The model hub sends nothing of {file.name!r}.")


def _receive_once(source: Source, file: HubFile, stop: threading.Event) -> None:
    """Append what one connection brings."""
    url = hf_hub_url(source.repository, file.name, revision=source.commit, endpoint=source.endpoint)
    partial = source.partial(file)
    start = size_of(partial)
    headers = build_hf_headers() | {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
    # Not buffered, so that what has arrived outlives the process.
    with (
        get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response,
        partial.open("ab", buffering=0) as opened,
    ):
        hf_raise_for_status(response)
        if start and response.status_code != httpx2.codes.PARTIAL_CONTENT:
            # The server does not know ranges, and sends the file from its beginning.
            opened.truncate(0)
        for chunk in response.iter_raw():
            if stop.is_set():
                raise Stopped
            opened.write(chunk)
            if opened.tell() > file.num_bytes:
                break


def _check(partial: Path, file: HubFile) -> None:
    """Raise HubFileCorrupt, and delete the file, if it is not the one that the hub's metadata describe."""
    with partial.open("rb+") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        os.fsync(opened.fileno())
    if digest != file.sha256:
        partial.unlink()
        raise HubFileCorrupt(
            f"The file {file.name!r} from the model hub has the SHA-256 {digest}; its metadata say {file.sha256}. It "
            "was deleted."
        )
