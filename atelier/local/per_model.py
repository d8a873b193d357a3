"""What a stage has for each model, such as its VAE: made in the stage's thread when the model is needed first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Generic, Protocol, TypeVar

from atelier.catalogue.entries import ModelEntry
from atelier.models.thread import ModelThread


class Unloadable(Protocol):
    """Holds modules in a ModelHost."""

    def bring(self) -> None:
        """Bring the modules to the device."""
        ...

    def unload(self) -> bool:
        """Take the modules out of memory; return whether they are still there, because they are used."""
        ...


T = TypeVar("T", bound=Unloadable)


class PerModel(Generic[T]):
    """One object per model."""

    def __init__(
        self, find: Callable[[str], ModelEntry], make: Callable[[ModelEntry], T], thread: ModelThread
    ) -> None:
        """`find` returns a model's entry by its id, or raises ModelNotFound; `make` is called in `thread`."""
        self._find = find
        self._make = make
        self._thread = thread
        self._made: dict[str, T] = {}

    @property
    def made(self) -> Mapping[str, T]:
        """The objects that there are, by model id."""
        return self._made

    def load(self, entries: Iterable[ModelEntry]) -> None:
        """Make the objects of those models that are to be preloaded, and block until they are there."""
        for entry in entries:
            if entry.preload:
                self._thread.run(partial(self._once, entry))

    async def get(self, model: str) -> T:
        """Return the object of a model. Raises ModelNotFound, and what making it raises."""
        if model in self._made:
            return self._made[model]
        entry = self._find(model)
        return await self._thread.run_async(partial(self._once, entry))

    async def bring(self, model: str) -> None:
        """Bring a model into memory. Raises what `get` raises."""
        of_model = await self.get(model)
        await self._thread.run_async(of_model.bring)

    async def unload(self, model: str) -> bool:
        """Take a model out of memory, between two calls; return whether it is still there."""
        of_model = self._made.get(model)
        return of_model is not None and await self._thread.run_async(of_model.unload)

    def _once(self, entry: ModelEntry) -> T:
        if entry.id not in self._made:
            self._made[entry.id] = self._make(entry)
        return self._made[entry.id]
