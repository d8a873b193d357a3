"""Downloaded files made usable: a model gets an entry in the registry, a LoRA also a place in the watched folder.

The entry is written last, so that nothing is listed as installed whose files are not whole.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.checkpoint_files import read_checkpoint
from atelier.catalogue.entries import SDXL_REPOSITORY, Files, ModelEntry
from atelier.catalogue.header import Refused, bounded_json
from atelier.catalogue.installed import Installed, delete_installed, list_installed, write_installed
from atelier.catalogue.lora_files import read_lora
from atelier.catalogue.watched_folder import SUFFIX
from atelier.core.errors import AdapterInvalid, ModelUnavailable
from atelier.hub.choice import MODEL_PARTS, Choice
from atelier.hub.repository import Repository

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
#: Trigger words that a LoRA's JSON may have.
_TRIGGER = re.compile(r"[^<>]*\w[^<>]*")
_MAX_TRIGGER_CHARS = 200


def id_of(repository: Repository, choice: Choice) -> str:
    """Return the id by which requests name what was downloaded.

    A model has its repository's id, and a LoRA one that `<lora:ID:0.8>` takes. A LoRA or checkpoint from a repository
    of several files has also the name of its file.
    """
    file = Path(choice.file).stem if choice.file is not None and len(repository.safetensors) > 1 else None
    if choice.kind == "model":
        return repository.id if file is None else f"{repository.id}--{_NOT_IN_NAMES.sub('-', file).strip('-')}"
    parts = [repository.owner, repository.name, *([] if file is None else [file])]
    return "--".join(_NOT_IN_NAMES.sub("-", part).strip("-") for part in parts)


def install(repository: Repository, choice: Choice, folder: Path, registry: Path, loras_dir: Path) -> Installed:
    """Make the downloaded files in `folder` usable, and return the entry.

    Raises ModelUnavailable if the model lacks a file or its checkpoint is not served, and AdapterInvalid if the LoRA
    is not served.
    """
    entry_id = id_of(repository, choice)
    model = _model_entry(entry_id, repository, choice, folder) if choice.kind == "model" else None
    if choice.kind == "lora":
        _add_lora(entry_id, repository, folder / choice.files[0].name, loras_dir)
    installed = Installed(
        id=entry_id,
        kind=choice.kind,
        repository=repository.id,
        revision=repository.revision,
        file=choice.file,
        licence=repository.licence.id,
        num_bytes=choice.num_bytes,
        installed_at=time.time(),
        model=model,
    )
    write_installed(registry, installed)
    return installed


def uninstall(
    installed: Installed, registry: Path, loras_dir: Path, cache: Path, *, in_use: Collection[tuple[str, str | None]]
) -> None:
    """Remove an entry, then its files.

    `in_use` are repositories with their revisions, None for any, that the catalogue names: their files stay. So do
    those of other entries.
    """
    delete_installed(registry, installed)
    if installed.kind == "lora":
        for suffix in (SUFFIX, ".json"):
            (loras_dir / f"{installed.id}{suffix}").unlink(missing_ok=True)
    used = {(one.repository, one.revision) for one in list_installed(registry)} | set(in_use)
    if used.isdisjoint({(installed.repository, installed.revision), (installed.repository, None)}):
        # Nothing is in the cache if its folder was deleted.
        with suppress(CacheNotFound):
            found = scan_cache_dir(cache)
            # Copies of a repository have the same commits.
            own = frozenset(one for one in found.repos if one.repo_id == installed.repository)
            replace(found, repos=own).delete_revisions(installed.revision).execute()


def _model_entry(entry_id: str, repository: Repository, choice: Choice, folder: Path) -> ModelEntry:
    """Return a model's entry. What most repositories do not say is that of SDXL base: sides, defaults, previews.

    Raises ModelUnavailable.
    """
    base = read_catalogue().model(SDXL_REPOSITORY)
    if choice.file is not None:
        return _checkpoint_entry(entry_id, repository, folder / choice.file, base)
    for part in MODEL_PARTS:
        if name := part.missing(folder, choice.variant):
            raise ModelUnavailable(f"The repository {repository.id!r} has no {name}.")
    return ModelEntry(
        id=entry_id,
        description=f"{repository.name} by {repository.owner}, from the model hub.",
        owned_by=repository.owner,
        created=repository.created or datetime.datetime.now(datetime.UTC).date(),
        licence=repository.licence.id,
        files=Files(repository=repository.id, revision=repository.revision, variant=choice.variant),
        sides_px=base.sides_px,
        edits=_reads_an_image(folder),
        preview_decoder=base.preview_decoder,
        latent_rgb=base.latent_rgb,
        defaults=base.defaults,
    )


def _reads_an_image(folder: Path) -> bool:
    """Return whether the UNet reads an image beside its latents, as those do that edit by instructions."""
    try:
        config = bounded_json((folder / "unet/config.json").read_bytes(), "unet/config.json")
    except Refused as refused:
        raise ModelUnavailable(f"{refused}.") from refused
    return isinstance(config, dict) and config.get("in_channels") == 8


def _checkpoint_entry(entry_id: str, repository: Repository, file: Path, base: ModelEntry) -> ModelEntry:
    try:
        entry = read_checkpoint(file, (), base)
    except Refused as refused:
        raise ModelUnavailable(f"The file {file.name!r} of {repository.id!r} is not served: {refused}.") from refused
    told = {"id": entry_id, "owned_by": repository.owner, "licence": repository.licence.id}
    return entry.model_copy(update=told)


def _add_lora(entry_id: str, repository: Repository, file: Path, loras_dir: Path) -> None:
    """Put a LoRA and its JSON into the watched folder. Raises AdapterInvalid."""
    loras_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=loras_dir) as temporary:
        weights, described = Path(temporary, f"{entry_id}{SUFFIX}"), Path(temporary, f"{entry_id}.json")
        _link_or_copy(file.resolve(), weights)
        described.write_text(json.dumps(_description(repository)), encoding="utf-8")
        try:
            read_lora(weights, described)
        except Refused as refused:
            raise AdapterInvalid(
                f"The LoRA {file.name!r} of {repository.id!r} is not served: {refused}."
            ) from refused
        # The JSON first: the folder's watcher looks at both when the weights appear.
        os.replace(described, loras_dir / described.name)
        os.replace(weights, loras_dir / weights.name)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # The folder is on another disk, or its file system has no links.
        shutil.copyfile(source, target)


def _description(repository: Repository) -> dict[str, object]:
    """Return the JSON beside a LoRA. Without a `base` it goes with every SDXL model."""
    fields: dict[str, object] = {
        "title": repository.name,
        "description": f"From {repository.id} at {repository.revision}.",
        "author": repository.owner,
        "licence": repository.licence.id,
    }
    words = repository.trigger_words
    if words is not None and len(words) <= _MAX_TRIGGER_CHARS and _TRIGGER.fullmatch(words):
        fields["trigger_words"] = [words]
    return fields
