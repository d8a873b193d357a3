"""Names of blobs: the SHA-256 of the content with a suffix. Equal files are one blob, and no name can be guessed."""

from __future__ import annotations

import hashlib
import re

_NAME = re.compile(r"[0-9a-f]{64}\.(png|jpeg|webp)")


def name_of(data: bytes, suffix: str) -> str:
    """Return the name of the blob with this content; the suffix is `png`, `jpeg` or `webp`."""
    return f"{hashlib.sha256(data).hexdigest()}.{suffix}"


def is_blob(name: str) -> bool:
    """Return whether a name has the form of a blob's name."""
    return _NAME.fullmatch(name) is not None
