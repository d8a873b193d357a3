"""When a request is sent again after a connection was lost, and after how many attempts it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cli.failures import Lost

#: Seconds before each attempt after the first: together half a minute, in which Serve replaces a Router.
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


class Patience:
    """The pauses between the attempts of one request."""

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say` shows a line of text to the user."""
        self._say = say
        self._num_pauses = 0

    def renew(self) -> None:
        """Start again with the shortest pause, because the server has answered."""
        self._num_pauses = 0

    async def pause(self, lost: Lost) -> None:
        """Return when the request may be sent again. Raises `lost` after the last pause."""
        if self._num_pauses == len(PAUSES_S):
            raise lost
        if self._num_pauses == 0:
            self._say(f"{lost} Trying again.")
        self._num_pauses += 1
        await asyncio.sleep(PAUSES_S[self._num_pauses - 1])
