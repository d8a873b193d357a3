"""A folder of LoRA files: lists it, reads what is new or has changed, and says what is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from atelier.catalogue.entries import LoraEntry
from atelier.catalogue.header import Refused
from atelier.catalogue.lora_files import SUFFIX, LoraFile, read_lora

#: Maximum number of LoRAs in a folder.
MAX_FILES = 5000
#: Endings of files of weights that are pickles, which may run code when they are read.
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
#: Endings of images beside a LoRA, in the order in which they are looked for.
_PREVIEWS = (".png", ".webp", ".jpg", ".jpeg", ".preview.png")


class RefusedFile(NamedTuple):
    """A file that is not served, and why."""

    name: str
    reason: str


class Stamp(NamedTuple):
    """What changes when a file is replaced."""

    num_bytes: int
    time_ns: int
    inode: int


#: Files by name; None stands for what is not a file, such as a folder or a broken link.
Listing = Mapping[str, Stamp | None]
#: What was read, or why it is refused, of a LoRA and its JSON with these stamps.
_Read = tuple[tuple[Stamp, Stamp | None], LoraFile | str]


class LoraFolder:
    """Reads LoRAs from a folder, each once until it changes. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, _Read] = {}

    def listing(self) -> Listing | str:
        """Return the files in the folder, none if it does not exist, or why it cannot be read. Reads no file."""
        try:
            with os.scandir(self._folder) as found:
                return {item.name: _stamp(item) for item in found if not item.name.startswith(".")}
        except FileNotFoundError:
            return {}
        except OSError as error:
            return f"the folder cannot be read: {error.strerror}"

    def add(
        self, by_id: dict[str, LoraEntry], listing: Listing | str, *, skip: Collection[Path], models: Collection[str]
    ) -> Iterator[RefusedFile]:
        """Add the folder's LoRAs to `by_id`, and yield what is refused; files in `skip` are neither.

        A LoRA whose base is not one of `models` is refused.
        """
        if isinstance(listing, str):
            yield RefusedFile(str(self._folder), listing)
            return
        self._read = {name: read for name, read in self._read.items() if name in listing}
        names = sorted(name for name in listing if name.endswith((SUFFIX, *_PICKLES)))
        for name in names[:MAX_FILES]:
            if real_path(self._folder / name) in skip:
                continue
            try:
                entry = self._entry(name, listing)
                if entry.id in by_id:
                    raise Refused(f"the id {entry.id!r} is taken by the catalogue")
                if entry.base is not None and entry.base not in models:
                    raise Refused(f"its base model {entry.base!r} is not served")
            except Refused as refused:
                yield RefusedFile(_shown(name), str(refused))
            else:
                by_id[entry.id] = entry
        if len(names) > MAX_FILES:
            yield RefusedFile(_shown(names[MAX_FILES]), f"this and later files: at most {MAX_FILES} are read")

    def _entry(self, name: str, listing: Listing) -> LoraEntry:
        if name.endswith(_PICKLES):
            raise Refused("only safetensors files are served; a pickle may run code")
        described = self._described(name, listing)
        stem = name.removesuffix(SUFFIX)
        previews = [f"{stem}{ending}" for ending in _PREVIEWS] if described.preview is None else [described.preview]
        preview = next((one for one in previews if listing.get(one) is not None), None)
        if preview is None:
            return described.entry
        if not self._is_inside(preview):
            raise Refused(f"its preview {_shown(preview)} is a link that leads out of the folder")
        return described.entry.model_copy(update={"preview": self._folder / preview})

    def _described(self, name: str, listing: Listing) -> LoraFile:
        """Return what the LoRA's files say, read only if they have changed. Raises Refused."""
        stamp, json = listing[name], f"{name.removesuffix(SUFFIX)}.json"
        if stamp is None:
            raise Refused("it is not a file, or a broken link")
        stamps = stamp, listing.get(json)
        if name not in self._read or self._read[name][0] != stamps:
            self._read[name] = stamps, self._read_now(name, None if stamps[1] is None else json)
        read = self._read[name][1]
        if isinstance(read, str):
            raise Refused(read)
        return read

    def _read_now(self, name: str, json: str | None) -> LoraFile | str:
        for one in (name, json):
            if one is not None and not self._is_inside(one):
                return f"{_shown(one)} is a link that leads out of the folder"
        try:
            return read_lora(self._folder / name, None if json is None else self._folder / json)
        except Refused as refused:
            return str(refused)

    def _is_inside(self, name: str) -> bool:
        return real_path(self._folder / name).is_relative_to(real_path(self._folder))


def real_path(file: Path) -> Path:
    """Return where links lead to; a link to itself stays, for which `Path.resolve` raises an error."""
    return Path(os.path.realpath(file))


def _stamp(item: os.DirEntry[str]) -> Stamp | None:
    try:
        found = item.stat()
    except OSError:
        return None
    is_file = stat.S_ISREG(found.st_mode)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino) if is_file else None


def _shown(name: str) -> str:
    """Return a file's name with the bytes that are no text escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
