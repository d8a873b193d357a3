"""A folder of LoRA files, with their previews."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from atelier.catalogue.entries import LoraEntry
from atelier.catalogue.header import Refused
from atelier.catalogue.lora_files import LoraFile, read_lora
from atelier.catalogue.watched_folder import SUFFIX, Listing, RefusedFile, WatchedFolder, real_path, shown

#: Endings of images beside a LoRA, in the order in which they are looked for.
_PREVIEWS = (".png", ".webp", ".jpg", ".jpeg", ".preview.png")


class LoraFolder:
    """Reads LoRAs from a folder, each once until it changes. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = WatchedFolder(folder, _read, (".json",))

    def listing(self) -> Listing | str:
        """Return the files in the folder, none if it does not exist, or why it cannot be read. Reads no file."""
        return self._files.listing()

    def add(
        self, by_id: dict[str, LoraEntry], listing: Listing | str, *, skip: Collection[Path], models: Collection[str]
    ) -> Iterator[RefusedFile]:
        """Add the folder's LoRAs to `by_id`, and yield what is refused; files in `skip` are neither.

        A LoRA is refused if its id is taken, or if its base is not one of `models`.
        """
        if isinstance(listing, str):
            yield RefusedFile(str(self._folder), listing)
            return
        for found in self._files.files(listing, skip=skip):
            if isinstance(found, RefusedFile):
                yield found
                continue
            name, lora = found
            try:
                entry = self._with_preview(name, lora, listing)
                if entry.id in by_id:
                    taken_by = "the catalogue" if real_path(by_id[entry.id].file) in skip else "another file"
                    raise Refused(f"the id {entry.id!r} is taken by {taken_by}")
                if entry.base is not None and entry.base not in models:
                    raise Refused(f"its base model {entry.base!r} is not served")
            except Refused as refused:
                yield RefusedFile(shown(name), str(refused))
            else:
                by_id[entry.id] = entry

    def _with_preview(self, name: str, lora: LoraFile, listing: Listing) -> LoraEntry:
        stem = name.removesuffix(SUFFIX)
        previews = [f"{stem}{ending}" for ending in _PREVIEWS]
        if lora.preview is not None:
            previews = [name[: name.rfind("/") + 1] + lora.preview]
        preview = next((one for one in previews if listing.get(one) is not None), None)
        if preview is None:
            return lora.entry
        if not self._files.is_inside(preview):
            raise Refused(f"its preview {shown(preview)} is a link that leads out of the folder")
        return lora.entry.model_copy(update={"preview": self._folder / preview})


def _read(file: Path, beside: Sequence[Path]) -> LoraFile:
    return read_lora(file, beside[0] if beside else None)
