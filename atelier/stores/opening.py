"""From `ATELIER_BLOBS_URL` to an open store, and obstore's errors in one line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

_BUCKETS = ("s3", "gs", "az")
#: Time for which failed calls to a bucket are repeated. obstore's default is three minutes.
RETRY_TIME = timedelta(seconds=4)


def open_store(url: str) -> tuple[ObjectStore, Path | None]:
    """Open the store at a URL, and return it with its folder, or with None if it is a bucket.

    A folder is created if there is none, readable by this user only. Raises ValueError for a URL that is no folder
    and no bucket, or that lacks settings.
    """
    parts = urlsplit(url)
    is_folder = parts.scheme == "file" and not parts.netloc
    if not is_folder and parts.scheme not in _BUCKETS:
        raise ValueError(
            f"ATELIER_BLOBS_URL = {url!r} is not supported; set file:///folder, s3://bucket/prefix, "
            "gs://bucket/prefix or az://container/prefix"
        )
    folder = Path(url2pathname(parts.path)) if is_folder else None
    try:
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return from_url(url, retry_config={"retry_timeout": RETRY_TIME}), folder
    except (BaseError, OSError, ValueError) as error:
        raise ValueError(f"ATELIER_BLOBS_URL = {url!r} cannot be opened: {reason_of(error)}") from None


def reason_of(error: BaseException | None) -> str:
    """Return the reason of a failure in one line, without obstore's account of its own state."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return " ".join(str(error).partition("Debug source:")[0].split())
