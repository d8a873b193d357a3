"""Requests that are to leave their replica, because it is to be stopped.

Serve's request router knows that a replica is to be stopped, and the stream of a request knows when it can leave.
Both are in the Router's process, in different threads, and reach each other by the request's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event

_watched: dict[str, Event] = {}


@contextmanager
def watched(request_id: str) -> Iterator[Event]:
    """Context manager of a request in a replica; its event is set when the request is to leave."""
    _watched[request_id] = event = Event()
    try:
        yield event
    finally:
        del _watched[request_id]


def ask(request_ids: Iterable[str]) -> None:
    """Ask requests to leave, as far as they are watched."""
    for request_id in list(request_ids):
        if (event := _watched.get(request_id)) is not None:
            event.set()
