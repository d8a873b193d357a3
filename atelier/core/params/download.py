"""Params for downloading a model from the model hub. Repositories and files are named; no path or URL is taken."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atelier.core.params.parsing import MAX_NAME_CHARS, Params

#: What can be downloaded and used.
InstalledKind = Literal["model", "lora"]
#: What a repository holds.
RepositoryKind = Literal[InstalledKind, "controlnet"]

_WORD = r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*"
_PART = r"[^./\\\p{Cc}][^/\\\p{Cc}]*"
#: OWNER/NAME, as the Hugging Face hub allows it.
RepositoryId = Annotated[str, Field(max_length=96, pattern=rf"^{_WORD}/{_WORD}$")]


class DownloadParams(Params):
    """A model or LoRA of the model hub to download."""

    repository: RepositoryId = Field(
        description="Id of a repository, as OWNER/NAME.", examples=["stabilityai/stable-diffusion-xl-base-1.0"]
    )
    revision: str = Field(
        "main",
        max_length=MAX_NAME_CHARS,
        pattern=r"^[A-Za-z0-9_]+([./-][A-Za-z0-9_]+)*$",
        description="Branch, tag or commit; the commit that it is now is downloaded.",
    )
    file: str | None = Field(
        None,
        max_length=MAX_NAME_CHARS,
        pattern=rf"^({_PART}/)*{_PART}\.safetensors$",
        description="The LoRA's or checkpoint's file in the repository; needed if that has several.",
    )
    kind: InstalledKind | None = Field(
        None, description="What the repository holds; by default what its tags and files say."
    )
    accept_licence: str | None = Field(
        None,
        max_length=MAX_NAME_CHARS,
        description="Id of the repository's licence, from GET /v1/hub/search, to accept it.",
    )
