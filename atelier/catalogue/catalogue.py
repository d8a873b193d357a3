"""The catalogue: one YAML file of models, validated when it is read; error messages name the line.

Base models and LoRAs may also lie in folders that are watched while the graph runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, PrivateAttr, ValidationError

from atelier.catalogue.entries import AnnotatorEntry, ControlNetEntry, Entry, LoraEntry, ModelEntry, UpscalerEntry
from atelier.catalogue.library import ModelLibrary, ModelReader
from atelier.catalogue.loras import LoraLibrary
from atelier.catalogue.storage import Storage
from atelier.core.errors import ModelNotFound

logger = logging.getLogger(__name__)

DEFAULT_CATALOGUE = Path(__file__).parent / "catalogue.yaml"


class CatalogueError(Exception):
    """The catalogue file is wrong; the message names the file and the line."""


class Catalogue(Entry):
    #: Entries under `models`, of which the first is the default. `Catalogue.library` has those that were found, too.
    models: tuple[ModelEntry, ...]
    controlnets: tuple[ControlNetEntry, ...] = ()
    annotators: tuple[AnnotatorEntry, ...] = ()
    upscalers: tuple[UpscalerEntry, ...] = ()
    #: Entries under `loras`. `Catalogue.loras` has the files of the folders, too.
    lora_entries: tuple[LoraEntry, ...] = Field((), alias="loras")
    _library: ModelLibrary = PrivateAttr()
    _loras: LoraLibrary = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002 pydantic passes it
        self._library = ModelLibrary(self.models)
        self._loras = LoraLibrary(self.lora_entries, self._library)

    @property
    def library(self) -> ModelLibrary:
        """The base models that can be named: `models`, and those that are found while the graph runs."""
        return self._library

    @property
    def loras(self) -> LoraLibrary:
        """The LoRAs that can be applied to the models."""
        return self._loras

    def only(
        self,
        models: Iterable[str],
        controlnets: Iterable[str] | None = (),
        annotators: Iterable[str] = (),
        upscalers: Iterable[str] = (),
        loras: Iterable[str] | None = (),
        *,
        lora_folders: Sequence[Path] = (),
        model_readers: Sequence[ModelReader] = (),
        found_upscalers: Sequence[UpscalerEntry] = (),
    ) -> Catalogue:
        """Return a catalogue of only the given ids, in the order given; the first model is the default.

        If `controlnets` is None, keep every ControlNet of the given models whose files are in a local folder. If
        `loras` is None, keep every LoRA of the given models whose file is on this machine. LoRAs in `lora_folders`
        are added to `Catalogue.loras`, the models of `model_readers` to `Catalogue.library`, and `found_upscalers` to
        those given, unless their ids are taken.

        Raises:
            ModelNotFound: an id is not in the catalogue, or a ControlNet or LoRA belongs to a model that is not
                served.
        """
        served = tuple(_entry(self.models, model_id, "model") for model_id in models)
        bases = {entry.id for entry in served}
        if controlnets is None:
            chosen = tuple(e for e in self.controlnets if e.base in bases and e.files.folder is not None)
        else:
            chosen = tuple(_entry(self.controlnets, model_id, "ControlNet") for model_id in controlnets)
        for entry in chosen:
            if entry.base not in bases:
                raise ModelNotFound(f"ControlNet {entry.id!r} goes with {entry.base}, which is not served.")
        catalogue = Catalogue(
            models=served,
            controlnets=chosen,
            annotators=tuple(_entry(self.annotators, model_id, "annotator") for model_id in annotators),
            upscalers=_with_found((_entry(self.upscalers, one, "upscaler") for one in upscalers), found_upscalers),
            loras=self._chosen_loras(served, loras),
        )
        catalogue._library = ModelLibrary(served, model_readers)
        catalogue._loras = LoraLibrary(catalogue.lora_entries, catalogue._library, lora_folders)
        return catalogue

    def _chosen_loras(self, served: Sequence[ModelEntry], ids: Iterable[str] | None) -> tuple[LoraEntry, ...]:
        def is_usable(entry: LoraEntry) -> bool:
            return any(entry.goes_with(model) for model in served)

        if ids is None:
            return tuple(entry for entry in self.lora_entries if is_usable(entry) and entry.file.is_file())
        chosen = tuple(_entry(self.lora_entries, lora_id, "LoRA") for lora_id in ids)
        for entry in chosen:
            if not is_usable(entry):
                base = entry.base or "models of SDXL"
                raise ModelNotFound(f"LoRA {entry.id!r} goes with {base}, which is not served.")
        return chosen

    def model(self, model_id: str | None) -> ModelEntry:
        """Return the model with this id or, if no model has it, with this alias; the first model if the id is None.

        A model that is not an entry of `models` is looked for in the library, which may read the disk.

        Raises:
            ModelNotFound: no model has this id or alias; the message lists the known ids.
        """
        if model_id is None:
            return self.models[0]
        entry = self._own(model_id)
        return self._library.get(model_id) if entry is None else entry

    def all_models(self) -> tuple[ModelEntry, ...]:
        """Return the models that can be named, those of `models` first. Blocks, because it may read the disk."""
        return tuple(self._library.look().by_id.values())

    def _own(self, model_id: str) -> ModelEntry | None:
        by_id = (entry for entry in self.models if entry.id == model_id)
        by_alias = (entry for entry in self.models if model_id in entry.aliases)
        return next(by_id, None) or next(by_alias, None)

    def upscaler(self, model_id: str | None, *, param: str = "model") -> UpscalerEntry | None:
        """Return the upscaler with this id. If the id is None, return the first upscaler, or None if there are none.

        Raises:
            ModelNotFound: no upscaler has this id; names the field `param`, and the message lists the known ids.
        """
        if model_id is not None:
            return _entry(self.upscalers, model_id, "upscaler", param=param)
        return self.upscalers[0] if self.upscalers else None

    def controlnets_for(self, model_id: str) -> tuple[ControlNetEntry, ...]:
        """Return the ControlNets that were trained for the model."""
        return tuple(entry for entry in self.controlnets if entry.base == model_id)


E = TypeVar("E", ModelEntry, ControlNetEntry, AnnotatorEntry, UpscalerEntry, LoraEntry)


def _entry(entries: Sequence[E], entry_id: str, what: str, *, param: str = "model") -> E:
    for entry in entries:
        if entry.id == entry_id:
            return entry
    known = ", ".join(entry.id for entry in entries)
    raise ModelNotFound(f"Unknown {what} {entry_id!r}. Known {what}s: {known}.", param=param)


def _with_found(chosen: Iterable[UpscalerEntry], found: Iterable[UpscalerEntry]) -> tuple[UpscalerEntry, ...]:
    by_id = {entry.id: entry for entry in chosen}
    for entry in found:
        if entry.id in by_id:
            logger.warning("the upscaler file %r is not served: the id %r is taken", entry.file.name, entry.id)
        by_id.setdefault(entry.id, entry)
    return tuple(by_id.values())


def read_catalogue(file: Path = DEFAULT_CATALOGUE, storage: Storage | None = None) -> Catalogue:
    """Read and check a catalogue; its entries remember `storage`, by default that of an empty environment.

    Raises:
        CatalogueError: the file is missing, is not YAML, or an entry is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text)
        data = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise CatalogueError(f"{file}: {error}") from error
    try:
        return Catalogue.model_validate(data, context={"folder": file.parent, "storage": storage})
    except ValidationError as error:
        raise CatalogueError("\n".join(_problems(error, file, root))) from error


def _problems(error: ValidationError, file: Path, root: yaml.Node | None) -> list[str]:
    return [
        f"{file}:{_line(root, problem['loc'])}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    ]


def _line(node: yaml.Node | None, path: Sequence[str | int]) -> int:
    """Return the line, counted from one, of the deepest YAML node that exists on the path."""
    line = 1
    for key in path:
        child = _child(node, key)
        if child is None:
            break
        node = child
        line = node.start_mark.line + 1
    return line


def _child(node: yaml.Node | None, key: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        item: yaml.Node = node.value[key]
        return item
    return None
