"""Places and secrets, from the environment with the prefix ATELIER_."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ATELIER_", frozen=True)

    #: Where pictures behind a URL are kept; s3://… for more than one node.
    blobs_url: str = Field(default_factory=lambda: (Path(tempfile.gettempdir()) / "atelier-blobs").as_uri())
    blobs_ttl: timedelta = timedelta(hours=1)
