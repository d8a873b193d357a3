"""The LoRAs of a catalogue: entries of its YAML, and files in a folder that is watched.

Router, TextEncoder and Denoiser have a library each and find the same LoRAs by the same ids. No model is loaded here.
"""

from __future__ import annotations

import difflib
import heapq
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from atelier.catalogue.entries import LoraEntry, ModelEntry
from atelier.catalogue.lora_files import SUFFIX
from atelier.catalogue.lora_folder import LoraFolder, RefusedFile, real_path
from atelier.core.errors import LoraNotFound

logger = logging.getLogger(__name__)

#: Seconds between two looks at the folder.
_LOOK_INTERVAL_S = 1.0
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
        reasons = [f"{file.name}: {file.reason}." for file in self.refused if file.name == f"{stem}{SUFFIX}"]
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
    """Finds LoRAs by their ids; looks at the folder when it is asked, at most once a second. Thread-safe.

    A pickled library looks at the folder anew, in the process where it arrives.
    """

    def __init__(
        self,
        entries: Sequence[LoraEntry] = (),
        models: Sequence[ModelEntry] = (),
        folder: Path | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`entries` go before files of the same id in `folder`; `models` are those that are served."""
        self._entries = tuple(entries)
        self._models = tuple(models)
        self._folder = folder
        self._files = None if folder is None else LoraFolder(folder)
        self._now_s = now_s
        self._lock = threading.Lock()
        self._looked_s: float | None = None
        self._seen: object = None
        self._loras = NO_LORAS

    def __reduce__(self) -> tuple[type[LoraLibrary], tuple[object, ...]]:
        return LoraLibrary, (self._entries, self._models, self._folder)

    @property
    def folder(self) -> Path | None:
        """The folder that is watched, if there is one."""
        return self._folder

    def look(self) -> Loras:
        """Return the LoRAs that are there; reads files that are new or have changed. Blocks."""
        # Only the first look is waited for: a slow disk must not hold up every thread of a Router.
        if self._lock.acquire(blocking=self._seen is None):
            try:
                if self._looked_s is None or self._now_s() - self._looked_s >= _LOOK_INTERVAL_S:
                    self._look()
            finally:
                self._lock.release()
        return self._loras

    def get(self, lora_id: str) -> LoraEntry:
        """Return the LoRA with this id; looks again for one that is not known yet. Blocks. Raises LoraNotFound.

        A Router may have seen a file a moment before this process looks.
        """
        if lora_id not in self.look().by_id:
            with self._lock:
                self._look()
        return self._loras.get(lora_id)

    def file(self, lora_id: str) -> Path:
        """Return the file of the LoRA with this id. Blocks. Raises LoraNotFound."""
        return self.get(lora_id).file

    def _look(self) -> None:
        self._looked_s = self._now_s()
        listing = None if self._files is None else self._files.listing()
        seen = listing, [os.path.isfile(entry.file) for entry in self._entries]
        if seen == self._seen:
            return
        known = set(self._loras.refused)
        by_id: dict[str, LoraEntry] = {}
        refused = [*self._add_entries(by_id)]
        if self._files is not None and listing is not None:
            own = {real_path(entry.file) for entry in self._entries}
            refused += self._files.add(by_id, listing, skip=own, models={model.id for model in self._models})
        for file in refused:
            if file not in known:
                logger.warning("the LoRA file %r is not served: %s", file.name, file.reason)
        self._loras, self._seen = Loras(by_id, tuple(refused)), seen

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
