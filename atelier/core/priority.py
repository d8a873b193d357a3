"""Priority classes: how much of a replica's time a request has beside others, and how long it may wait for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """A row of `PRIORITIES`."""

    #: Share of the time that batches of this class have beside batches of others.
    weight: int
    #: Seconds from the submission at which a request is due, unless it has an earlier deadline. Those that are due
    #: first are admitted first, so that a request of a low class is passed by newer ones for so long at most.
    patience_s: float


#: From the first to the last.
PRIORITIES: Mapping[str, PriorityClass] = {
    "interactive": PriorityClass(weight=16, patience_s=10),
    "standard": PriorityClass(weight=4, patience_s=60),
    "batch": PriorityClass(weight=1, patience_s=3600),
}
if TYPE_CHECKING:
    Priority = str
else:
    Priority = Literal[tuple(PRIORITIES)]


def is_before(one: Priority, other: Priority) -> bool:
    """Return whether one priority is of a higher class than the other."""
    return PRIORITIES[one].weight > PRIORITIES[other].weight
