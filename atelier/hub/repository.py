"""A repository of the model hub: what it holds, under which licence, and its files."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

from huggingface_hub import ModelCardData, ModelInfo
from huggingface_hub.hf_api import RepoSibling

from atelier.core.errors import HubUnavailable
from atelier.core.params.download import RepositoryKind

#: Licence of a repository that names none.
UNKNOWN_LICENCE = "unknown"
_SUFFIX = ".safetensors"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Tags by which authors and the hub say what a repository holds, the most telling first.
TAGS: dict[RepositoryKind, str] = {
    "lora": "lora",
    "controlnet": "controlnet",
    "model": "diffusers:StableDiffusionXLPipeline",
}
#: Start of the tags that name the base model; some have a relation, such as "adapter", between it and the id.
BASE_TAG = "base_model:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """A licence, as a client accepts it."""

    id: str
    #: Where its text is, or else the page of the repository.
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository."""

    name: str
    num_bytes: int
    #: SHA-256 of a file in the hub's store of large files; None for a small one, which git keeps.
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository at one commit."""

    id: str
    #: None if neither its tags nor its files say it.
    kind: RepositoryKind | None
    #: Id of the base model that it was made from.
    base: str | None
    licence: Licence
    #: The commit.
    revision: str
    created: datetime.date | None
    downloads: int
    likes: int
    is_gated: bool
    #: Words that the card tells to put into prompts.
    trigger_words: str | None
    files: tuple[HubFile, ...]

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]

    @property
    def safetensors(self) -> tuple[HubFile, ...]:
        """The files of weights that can be used."""
        return tuple(file for file in self.files if file.name.endswith(_SUFFIX))


def repository_of(info: ModelInfo, endpoint: str) -> Repository:
    """Return the repository that the hub at `endpoint` describes, with the metadata of its files.

    Raises HubUnavailable if the description has no commit.
    """
    if info.sha is None or _COMMIT.fullmatch(info.sha) is None:
        raise HubUnavailable(f"The model hub does not say at which commit {info.id!r} is.")
    card, tags = info.card_data, tuple(info.tags or ())
    files = tuple(_files(info.siblings or ()))
    return Repository(
        id=info.id,
        kind=_kind(tags, files),
        base=_base(tags),
        licence=_licence(info.id, card, tags, endpoint),
        revision=info.sha,
        created=None if info.created_at is None else info.created_at.date(),
        downloads=info.downloads or 0,
        likes=info.likes or 0,
        is_gated=bool(info.gated),
        trigger_words=_text(card, "instance_prompt"),
        files=files,
    )


def _files(siblings: list[RepoSibling] | tuple[()]) -> Iterator[HubFile]:
    for sibling in siblings:
        lfs = sibling.lfs
        if lfs is not None and _SHA256.fullmatch(lfs.sha256) is None:
            raise HubUnavailable(f"The model hub gives no SHA-256 for {sibling.rfilename!r}.")
        yield HubFile(
            name=sibling.rfilename,
            num_bytes=lfs.size if lfs is not None else sibling.size or 0,
            sha256=None if lfs is None else lfs.sha256,
        )


def _kind(tags: tuple[str, ...], files: tuple[HubFile, ...]) -> RepositoryKind | None:
    for kind, tag in TAGS.items():
        if tag in tags:
            return kind
    names = {file.name for file in files}
    return "model" if {"model_index.json", "unet/config.json"} <= names else None


def _base(tags: tuple[str, ...]) -> str | None:
    for tag in tags:
        if tag.startswith(BASE_TAG):
            return tag.rpartition(":")[2]
    return None


def _licence(repository: str, card: ModelCardData | None, tags: tuple[str, ...], endpoint: str) -> Licence:
    """Return the licence of the card, or that of the tags; one of the author's own has its own name and link."""
    tagged = next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), UNKNOWN_LICENCE)
    licence = _text(card, "license") or tagged
    if licence == "other":
        licence = _text(card, "license_name") or licence
    link = _text(card, "license_link")
    page = f"{endpoint}/{repository}"
    if link is None:
        return Licence(id=licence, link=page)
    # Authors also name a file of the repository.
    return Licence(id=licence, link=link if link.startswith("https://") else f"{page}/blob/main/{link}")


def _text(card: ModelCardData | None, name: str) -> str | None:
    """Return a text of the card; authors write anything there."""
    value = None if card is None else card.get(name)
    return value.strip() or None if isinstance(value, str) else None
