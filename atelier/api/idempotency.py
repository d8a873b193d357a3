"""The `Idempotency-Key` header, with which a client may send a request again and get the first answer.

A request for images with a key draws its seed once. Sent again, it asks for the same images, which the cache has.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header

from atelier.core.errors import InvalidParameter

_NAME, _MAX_CHARS = "Idempotency-Key", 190


async def _key(
    idempotency_key: Annotated[
        str | None,
        Header(description="A name of the client's own; a request sent again gets the first answer."),
    ] = None,
) -> str | None:
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= _MAX_CHARS:
        raise InvalidParameter(f"{_NAME}: has 1 to {_MAX_CHARS} characters; got {len(idempotency_key)}.", param=_NAME)
    return idempotency_key


#: The key that a client has sent, or None. Raises InvalidParameter if it is empty or long.
GivenKey = Annotated[str | None, Depends(_key)]
