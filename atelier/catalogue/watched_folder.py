"""A folder of files of weights: lists it, reads what is new or has changed, and says what is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from atelier.catalogue.header import Refused

SUFFIX = ".safetensors"
#: Maximum number of files of weights in a folder.
MAX_FILES = 5000
#: How deep subfolders are looked into.
_MAX_DEPTH = 4
#: Endings of files of weights that are pickles, which may run code when they are read.
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")

T = TypeVar("T")


class RefusedFile(NamedTuple):
    """A file that is not served, and why."""

    name: str
    reason: str


class Stamp(NamedTuple):
    """What changes when a file is replaced."""

    num_bytes: int
    time_ns: int
    inode: int


#: Files by their path in the folder. None stands for what is not a file, such as a folder or a broken link; the path
#: of a subfolder that cannot be read ends with a slash.
Listing = Mapping[str, Stamp | None]
#: Reads a file of weights and the files beside it. Raises Refused.
Read = Callable[[Path, Sequence[Path]], T]


class WatchedFolder(Generic[T]):
    """Reads files of weights from a folder and its subfolders, each once until it changes. Not thread-safe.

    A pickled one reads the files anew, in the process where it arrives.
    """

    def __init__(self, folder: Path, read: Read[T], beside: Sequence[str]) -> None:
        """`beside` are the endings of further files with the same stem, which `read` is given if they are there."""
        self._folder = folder
        self._read = read
        self._beside = beside
        #: What was read, or why it is refused, by name, with the stamps of the file and of those beside it.
        self._known: dict[str, tuple[Sequence[Stamp | None], T | str]] = {}

    def __reduce__(self) -> tuple[type[WatchedFolder[T]], tuple[Path, Read[T], Sequence[str]]]:
        return WatchedFolder, (self._folder, self._read, self._beside)

    def read(self) -> Iterator[T | RefusedFile]:
        """Yield what each file of weights says, or why it is refused."""
        listing = self.listing()
        if isinstance(listing, str):
            yield RefusedFile(str(self._folder), listing)
            return
        for found in self.files(listing):
            yield found if isinstance(found, RefusedFile) else found[1]

    def listing(self) -> Listing | str:
        """Return the files in the folder, none if it does not exist, or why it cannot be read. Reads no file."""
        try:
            return dict(_listed(self._folder, "", _MAX_DEPTH))
        except FileNotFoundError:
            return {}
        except OSError as error:
            return f"the folder cannot be read: {error.strerror}"

    def files(self, listing: Listing, *, skip: Collection[Path] = ()) -> Iterator[tuple[str, T] | RefusedFile]:
        """Yield what each file of weights says, with its path in the folder, or why it is refused.

        Files in `skip` are left out.
        """
        self._known = {name: known for name, known in self._known.items() if name in listing}
        names = sorted(name for name in listing if name.endswith((SUFFIX, *_PICKLES, "/")))
        for name in names[:MAX_FILES]:
            if real_path(self._folder / name) not in skip:
                read = self._read_file(name, listing)
                yield RefusedFile(shown(name), read) if isinstance(read, str) else (name, read)
        if len(names) > MAX_FILES:
            yield RefusedFile(shown(names[MAX_FILES]), f"this and later files: at most {MAX_FILES} are read")

    def is_inside(self, name: str) -> bool:
        """Return whether links in the path of a file do not lead out of the folder."""
        return real_path(self._folder / name).is_relative_to(real_path(self._folder))

    def _read_file(self, name: str, listing: Listing) -> T | str:
        """Return what a file says, read only if it has changed, or why it is refused."""
        if name.endswith("/"):
            return "the folder cannot be read"
        if name.endswith(_PICKLES):
            return "only safetensors files are served; a pickle may run code"
        if listing[name] is None:
            return "it is not a file, or a broken link"
        beside = [f"{name.removesuffix(SUFFIX)}{ending}" for ending in self._beside]
        stamps = [listing.get(one) for one in (name, *beside)]
        if name not in self._known or self._known[name][0] != stamps:
            there = [one for one in beside if listing.get(one) is not None]
            self._known[name] = stamps, self._read_now(name, there)
        return self._known[name][1]

    def _read_now(self, name: str, beside: Sequence[str]) -> T | str:
        for one in (name, *beside):
            if not self.is_inside(one):
                return f"{shown(one)} is a link that leads out of the folder"
        try:
            return self._read(self._folder / name, [self._folder / one for one in beside])
        except Refused as refused:
            return str(refused)


def real_path(file: Path) -> Path:
    """Return where links lead to; a link to itself stays, for which `Path.resolve` raises an error."""
    return Path(os.path.realpath(file))


def shown(name: str) -> str:
    """Return a file's name with the bytes that are no text escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _listed(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Stamp | None]]:
    """Yield the files of a folder and its subfolders, without hidden ones; links to folders are not followed."""
    with os.scandir(folder) as found:
        items = [item for item in found if not item.name.startswith(".")]
    for item in items:
        yield f"{prefix}{item.name}", _stamp(item)
        if depth and item.is_dir(follow_symlinks=False):
            begin = f"{prefix}{item.name}/"
            try:
                yield from list(_listed(folder / item.name, begin, depth - 1))
            except FileNotFoundError:
                continue
            except OSError:
                yield begin, None


def _stamp(item: os.DirEntry[str]) -> Stamp | None:
    try:
        found = item.stat()
    except OSError:
        return None
    is_file = stat.S_ISREG(found.st_mode)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino) if is_file else None
