"""Settings of the server's address and image storage, from environment variables with the prefix ATELIER_."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The settings that a Router reads from its environment."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_", frozen=True)

    blobs_url: str = Field(
        default_factory=lambda: (Path(tempfile.gettempdir()) / f"atelier-blobs-{os.getuid()}").as_uri(),
        description="Where images behind a URL are stored: file:///folder, which only Routers on one node share, "
        "or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.",
    )
    public_url: str | None = Field(
        None,
        description="Address of the server in the URLs of answers, with its path if it has one. By default the "
        "address that the client used, with Serve's route_prefix.",
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="Web pages that may call the server, as a JSON list of origins, besides those on this machine.",
    )
    blobs_ttl: timedelta = Field(
        timedelta(hours=1),
        description="Time after which images behind a URL are no longer returned. From a folder they are deleted, "
        "in a bucket lifecycle rules do that.",
    )
