"""The runtime of a stage: the thread, device and precision that its models run in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atelier.core.origin import Origin
from atelier.models.hashes import place_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.thread import ModelThread


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The thread that runs a stage's models, and the device that holds their weights."""

    placement: Placement
    thread: ModelThread
    #: Holds the modules that need not be in memory at all times.
    host: ModelHost
    #: Hash of everything outside the weights that results depend on.
    place: str

    @classmethod
    def start(cls, name: str, placement: Placement, *, num_threads: int) -> Runtime:
        """Start the thread; on the CPU its calls use `num_threads` OpenMP threads."""
        return cls(
            placement=placement,
            thread=ModelThread(name, num_threads=num_threads),
            host=ModelHost(placement),
            place=place_hash(placement, num_threads=num_threads, width=1),
        )

    def origin(self, weights: Mapping[str, str]) -> Origin:
        """Return the origin of a result of this runtime; `weights` are the hashes of the models used, by name."""
        return Origin(self.place, weights)
