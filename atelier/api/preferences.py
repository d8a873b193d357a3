"""The `Prefer` header (RFC 7240), of which the preference `wait` is honoured."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header

from atelier.core.errors import InvalidParameter

_NAME = "Prefer"
#: Seconds that may be waited, and those of a plain `wait`.
_MAX_WAIT_S, _WAIT_S = 60, 30


async def _wait_s(
    prefer: Annotated[
        list[str] | None,
        Header(
            description=f"`wait=SECONDS`, up to {_MAX_WAIT_S}: answer when the job has ended, but no later; plain "
            f"`wait` is {_WAIT_S} seconds."
        ),
    ] = None,
) -> int | None:
    preferences = (one.partition(";")[0].partition("=") for one in ",".join(prefer or ()).split(","))
    value = next((value.strip(' \t"') for name, _, value in preferences if name.strip().lower() == "wait"), None)
    if value is None:
        return None
    if not value:
        return _WAIT_S
    if not value.isdecimal() or len(value) > len(str(_MAX_WAIT_S)) or not 1 <= int(value) <= _MAX_WAIT_S:
        raise InvalidParameter(f"{_NAME}: wait is 1 to {_MAX_WAIT_S} seconds; got {value[:20]!r}.", param=_NAME)
    return int(value)


#: Seconds that a client would wait for the end of what it asks for, or None. Raises InvalidParameter if it is no
#: number, or too large.
GivenWait = Annotated[int | None, Depends(_wait_s)]
