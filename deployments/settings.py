"""Settings of the server's address and of what it stores, from environment variables with the prefix ATELIER_."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _data_folder() -> Path:
    """Return the folder of this user's data (XDG Base Directory Specification 0.8)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "atelier"


class Settings(BaseSettings):
    """The settings that Routers and Workers read from their environment."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_", frozen=True)

    blobs_url: str = Field(
        default_factory=lambda: (_data_folder() / "images").as_uri(),
        description="Where images behind a URL and those of jobs are stored: file:///folder, which only one node "
        "reads, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.",
    )
    database_url: str = Field(
        default_factory=lambda: f"sqlite:///{_data_folder() / 'jobs.db'}",
        description="Where jobs are stored: sqlite:////folder/file, which only one node reads, or "
        "postgresql://user:password@host/database.",
    )
    jobs_ttl: timedelta = Field(
        timedelta(days=7), description="Time after its end after which a job is deleted, with its images."
    )
    cache_ttl: timedelta = Field(
        timedelta(days=30), description="Time after which the images in the cache of results are deleted."
    )
    public_url: str | None = Field(
        None,
        description="Address of the server in the URLs of answers, with its path if it has one. By default the "
        "address that the client used, with Serve's route_prefix.",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret that signs [webhooks](jobs.md#webhooks) of jobs: `whsec_` and 24 to 64 bytes in base64. "
        "Without it jobs with a `webhook` are refused.",
    )
    webhook_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts that may receive webhooks although they have private addresses, also over http, as a JSON "
        "list of names or IP addresses.",
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
