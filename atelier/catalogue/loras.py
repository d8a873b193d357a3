"""The LoRAs of a catalogue: entries of its YAML, and files in folders that are watched.

Router, TextEncoder and Denoiser have a library each and find the same LoRAs by the same ids. No model is loaded here.
"""

from __future__ import annotations

import difflib
import heapq
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from atelier.catalogue.entries import LoraEntry, ModelEntry
from atelier.catalogue.library import ModelLibrary
from atelier.catalogue.lora_folder import LoraFolder
from atelier.catalogue.watch import Watch
from atelier.catalogue.watched_folder import SUFFIX, RefusedFile, real_path
from atelier.core.errors import LoraNotFound

logger = logging.getLogger(__name__)

#: Bounds of the search for similar ids, which would take 0.3 s for 5000 of them.
_MAX_COMPARED, _MAX_FOLDED_CHARS = 20, 64


@dataclass(frozen=True, slots=True)
class Loras:
    """The LoRAs that were there at one look."""

    by_id: Mapping[str, LoraEntry]
    #: Files that are not served, with the reasons.
    refused: tuple[RefusedFile, ...] = ()

    def get(self, lora_id: str, *, param: str = "loras") -> LoraEntry:
        """Return the LoRA with this id.

        Raises LoraNotFound, which names the field `param`, with the reason if a file of that name is refused, and the
        most similar ids.
        """
        if lora_id in self.by_id:
            return self.by_id[lora_id]
        stem = lora_id.removesuffix(SUFFIX)
        files = (file for file in self.refused if file.name.rpartition("/")[2] == f"{stem}{SUFFIX}")
        reasons = [f"{file.name}: {file.reason}." for file in files]
        close = ", ".join(map(repr, _nearest(stem, self.by_id)))
        hints = [*reasons, *([f"Did you mean {close}?"] if close else []), "GET /v1/loras lists all."]
        raise LoraNotFound(f"{param}: there is no LoRA {lora_id!r}. {' '.join(hints)}", param=param)

    def find(
        self, search: str = "", tags: Iterable[str] = (), model: ModelEntry | None = None
    ) -> Sequence[LoraEntry]:
        """Return the LoRAs that have every word of `search` in their texts, every tag, and go with the model."""
        words, needed = search.casefold().split(), {tag.casefold() for tag in tags}
        return [
            entry
            for entry in self.by_id.values()
            if needed <= {tag.casefold() for tag in entry.tags}
            and (model is None or entry.goes_with(model))
            and _has_words(entry, words)
        ]


NO_LORAS = Loras({})


class LoraLibrary:
    """Finds LoRAs by their ids; looks at the folders when it is asked, at most once a second. Thread-safe.

    A pickled library looks at the folders anew, in the process where it arrives.
    """

    def __init__(
        self,
        entries: Sequence[LoraEntry] = (),
        models: ModelLibrary | None = None,
        folders: Sequence[Path] = (),
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`entries` go before files of the same id in `folders`; `models` are those that are served."""
        self._entries = tuple(entries)
        self._models = ModelLibrary() if models is None else models
        self._folders = tuple(LoraFolder(folder) for folder in folders)
        self._arguments = self._entries, self._models, tuple(folders)
        self._watch = Watch(self._look, now_s)
        self._seen: object = None
        self._latest = NO_LORAS

    def __reduce__(self) -> tuple[type[LoraLibrary], tuple[object, ...]]:
        return LoraLibrary, self._arguments

    def look(self) -> Loras:
        """Return the LoRAs that are there; reads files that are new or have changed. Blocks."""
        return self._watch.view()

    @property
    def folder(self) -> Path | None:
        """The first folder, into which downloads go; None if there is none."""
        return next(iter(self._arguments[2]), None)

    @property
    def latest(self) -> Loras:
        """The LoRAs of the last look, which does not block; none before the first look."""
        return self._latest

    def get(self, lora_id: str) -> LoraEntry:
        """Return the LoRA with this id; looks again for one that is not known yet. Blocks. Raises LoraNotFound.

        A Router may have seen a file a moment before this process looks.
        """
        loras = self._watch.view()
        return (loras if lora_id in loras.by_id else self._watch.anew()).get(lora_id)

    def file(self, lora_id: str) -> Path:
        """Return the file of the LoRA with this id. Blocks. Raises LoraNotFound."""
        return self.get(lora_id).file

    def _look(self, last: Loras | None) -> Loras:
        listings = [folder.listing() for folder in self._folders]
        models = frozenset(self._models.look().by_id)
        seen = listings, models, [os.path.isfile(entry.file) for entry in self._entries]
        if last is not None and seen == self._seen:
            return last
        by_id: dict[str, LoraEntry] = {}
        refused = [*self._add_entries(by_id)]
        own = {real_path(entry.file) for entry in self._entries}
        for folder, listing in zip(self._folders, listings, strict=True):
            refused += folder.add(by_id, listing, skip=own, models=models)
        known = set() if last is None else set(last.refused)
        for file in refused:
            if file not in known:
                logger.warning("the LoRA file %r is not served: %s", file.name, file.reason)
        self._seen, self._latest = seen, Loras(by_id, tuple(refused))
        return self._latest

    def _add_entries(self, by_id: dict[str, LoraEntry]) -> Iterator[RefusedFile]:
        for entry in self._entries:
            if entry.id in by_id:
                yield RefusedFile(entry.file.name, f"the id {entry.id!r} is taken")
            elif not os.path.isfile(entry.file):
                yield RefusedFile(entry.file.name, f"{entry.id!r} of the catalogue: there is no file {entry.file}")
            else:
                by_id[entry.id] = entry


def _nearest(name: str, ids: Iterable[str]) -> list[str]:
    """Return the ids most similar to a name; only those with the most pairs of letters in common are compared."""
    asked = _pairs(name)
    return difflib.get_close_matches(name, heapq.nlargest(_MAX_COMPARED, ids, lambda one: len(asked & _pairs(one))))


def _pairs(text: str) -> set[str]:
    folded = text[:_MAX_FOLDED_CHARS].casefold()
    return set(map("".join, pairwise(folded)))


def _has_words(entry: LoraEntry, words: Sequence[str]) -> bool:
    texts = (entry.id, entry.title or "", entry.description, *entry.tags, *entry.trigger_words)
    text = "\n".join(texts).casefold()
    return all(word in text for word in words)
