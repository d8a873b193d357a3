"""What was downloaded by clients' requests: a folder with a YAML file for each model or LoRA.

An entry is written when all of its files are there, and at once: whoever lists the folder sees the whole of it or
nothing. A file that cannot be read is skipped with a warning, so that it does not take the others with it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from atelier.catalogue.entries import Entry, ModelEntry
from atelier.catalogue.storage import Storage
from atelier.core.params.download import InstalledKind, RepositoryId
from atelier.core.params.parsing import MAX_NAME_CHARS

logger = logging.getLogger(__name__)

_SUFFIX = ".yaml"

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Installed(Entry):
    """A model or LoRA that was downloaded."""

    #: The id in requests.
    id: str = Field(max_length=2 * MAX_NAME_CHARS)
    kind: InstalledKind
    repository: RepositoryId
    revision: Commit
    #: The LoRA's or checkpoint's file in the repository.
    file: str | None = None
    licence: str
    #: Size of the downloaded files.
    num_bytes: int
    #: Unix time in seconds.
    installed_at: float
    #: The entry of a model as a catalogue has it.
    model: ModelEntry | None = None


def read_installed(folder: Path, storage: Storage | None = None) -> tuple[ModelEntry, ...]:
    """Return the models that were downloaded; empty if the folder does not exist.

    The entries remember `storage`, by default that of an empty environment.
    """
    return tuple(one.model for one in list_installed(folder, storage) if one.model is not None)


def list_installed(folder: Path, storage: Storage | None = None) -> tuple[Installed, ...]:
    """Return what was downloaded, in the order of the ids; see `read_installed`."""
    found = (_read(file, storage) for file in sorted(folder.glob(f"[!.]*{_SUFFIX}")))
    return tuple(one for one in found if one is not None)


def write_installed(folder: Path, installed: Installed) -> None:
    """Write an entry, in place of one with the same id."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = installed.model_dump(mode="json", exclude_none=True)
    if installed.model is not None:
        fields["model"] = _catalogue_fields(installed.model, folder)
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=_SUFFIX, dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(name, _file(folder, installed.id))
    except BaseException:
        os.unlink(name)
        raise


def delete_installed(folder: Path, installed: Installed) -> None:
    """Delete an entry; one that is gone already stays so."""
    _file(folder, installed.id).unlink(missing_ok=True)


def _file(folder: Path, entry_id: str) -> Path:
    """Return an entry's file. Ids of repositories have no "--", so that no two share one."""
    return folder / f"{entry_id.replace('/', '--')}{_SUFFIX}"


def _catalogue_fields(model: ModelEntry, folder: Path) -> dict[str, Any]:
    """Return a model's fields as a catalogue in the folder has them, with the size as a text."""
    left_out = {"preload", "keep", "exclusive"} if model.edits else {"preload", "keep", "exclusive", "edits"}
    fields = model.model_dump(mode="json", exclude_none=True, exclude=left_out)
    defaults = model.defaults.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    fields["defaults"] = {**defaults, "size": str(model.defaults.size)}
    if model.files.file is not None:
        fields["files"] = {"file": os.path.relpath(model.files.file, folder)}
    return fields


def _read(file: Path, storage: Storage | None) -> Installed | None:
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Installed.model_validate(fields, context={"folder": file.parent, "storage": storage})
    except FileNotFoundError:
        # It was removed since the folder was listed.
        return None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        logger.warning("the entry %s of a downloaded model is skipped: %s", file, error)
        return None
