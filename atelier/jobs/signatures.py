"""Signatures of webhooks (Standard Webhooks 1.0.0, https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

_PREFIX = "whsec_"
_MIN_BYTES, _MAX_BYTES = 24, 64


def secret_of(text: str) -> bytes:
    """Return the key in a secret such as `whsec_MfKQ9r8G…`. Raises ValueError for another form, without naming it."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(_PREFIX) or not _MIN_BYTES <= len(key) <= _MAX_BYTES:
        raise ValueError(
            f"ATELIER_WEBHOOK_SECRET is not {_PREFIX!r} followed by {_MIN_BYTES} to {_MAX_BYTES} bytes in base64; "
            f'make one with: echo "{_PREFIX}$(openssl rand -base64 32)"'
        )
    return key


def signed_headers(key: bytes, message_id: str, at: float, body: bytes) -> Mapping[str, str]:
    """Return the headers of an attempt that begins at the Unix time `at`, by which its receiver verifies the body."""
    timestamp = str(int(at))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
