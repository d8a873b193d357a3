"""The base models that are served: entries of the config, and those that come and go while the graph runs.

Every process has a library of its own and finds the same models by the same ids. No model is loaded here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.watch import Watch
from atelier.catalogue.watched_folder import RefusedFile
from atelier.core.errors import ModelNotFound

logger = logging.getLogger(__name__)

#: Returns the base models of one place as they are now, and what is refused there. It keeps what it has read, and can
#: be pickled. It is called by one thread at a time.
ModelReader = Callable[[], Iterable[ModelEntry | RefusedFile]]

#: Seconds between two looks for ids that are not known: those that nobody has must not keep the disk busy.
_UNKNOWN_INTERVAL_S = 0.05
#: Maximum number of known ids in an error message.
_MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class Models:
    """The base models that were there at one look, those of the config first."""

    by_id: Mapping[str, ModelEntry]
    #: Files that are not served, with the reasons.
    refused: tuple[RefusedFile, ...] = ()

    def get(self, model_id: str) -> ModelEntry:
        """Return the model with this id.

        Raises ModelNotFound, which has the known ids and, if a file of that name is refused, the reason.
        """
        if model_id in self.by_id:
            return self.by_id[model_id]
        files = (file for file in self.refused if Path(file.name).stem == model_id)
        reasons = "".join(f" {file.name}: {file.reason}." for file in files)
        known = ", ".join(islice(self.by_id, _MAX_NAMED))
        more = "; GET /v1/models lists all" if len(self.by_id) > _MAX_NAMED else ""
        message = f"Unknown model {model_id!r}.{reasons} Known models: {known}{more}."
        raise ModelNotFound(message, param="model")


class ModelLibrary:
    """Finds base models by their ids; asks its readers when it is asked, at most once a second. Thread-safe.

    A pickled library asks its readers anew, in the process where it arrives.
    """

    def __init__(
        self,
        entries: Sequence[ModelEntry] = (),
        readers: Sequence[ModelReader] = (),
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`entries` are those of the config; no reader's model has the id or an alias of one of them."""
        self._entries = tuple(entries)
        self._readers = tuple(readers)
        self._watch = Watch(self._look, now_s)

    def __reduce__(self) -> tuple[type[ModelLibrary], tuple[object, ...]]:
        return ModelLibrary, (self._entries, self._readers)

    def look(self) -> Models:
        """Return the models that are there. Blocks."""
        return self._watch.view()

    def get(self, model_id: str) -> ModelEntry:
        """Return the model with this id; looks again for one that is not known yet. Blocks. Raises ModelNotFound.

        A Router may have seen a model a moment before this process looks.
        """
        models = self._watch.view()
        return (models if model_id in models.by_id else self._watch.anew(_UNKNOWN_INTERVAL_S)).get(model_id)

    def _look(self, last: Models | None) -> Models:
        by_id = {entry.id: entry for entry in self._entries}
        of_config = {*by_id, *(alias for entry in self._entries for alias in entry.aliases)}
        refused = []
        for reader in self._readers:
            for found in reader():
                if isinstance(found, RefusedFile):
                    refused.append(found)
                elif found.id in by_id or found.id in of_config:
                    taken_by = "the catalogue" if found.id in of_config else "another model"
                    name = Path(found.files.source).name
                    refused.append(RefusedFile(name, f"the id {found.id!r} is taken by {taken_by}"))
                else:
                    by_id[found.id] = found
        known = frozenset[RefusedFile]() if last is None else frozenset(last.refused)
        for file in refused:
            if file not in known:
                logger.warning("the model file %r is not served: %s", file.name, file.reason)
        return Models(by_id, tuple(refused))
