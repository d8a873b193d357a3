"""Settings of image storage, from environment variables with the prefix ATELIER_."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The settings that a Router reads from its environment."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_", frozen=True)

    blobs_url: str = Field(
        default_factory=lambda: (Path(tempfile.gettempdir()) / "atelier-blobs").as_uri(),
        description="Where images behind a URL are stored. Use s3://… for more than one node.",
    )
    blobs_ttl: timedelta = Field(timedelta(hours=1), description="Time after which images behind a URL are deleted.")
