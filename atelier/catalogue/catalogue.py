"""The catalogue: one YAML file of models, checked when it is read, with messages that name the line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from atelier.catalogue.entries import Entry, ModelEntry
from atelier.core.errors import ModelNotFound

DEFAULT_CATALOGUE = Path(__file__).parent / "catalogue.yaml"


class CatalogueError(Exception):
    """The catalogue file is wrong; the message names the file and the line."""


class Catalogue(Entry):
    models: tuple[ModelEntry, ...]

    def only(self, ids: Iterable[str]) -> Catalogue:
        """The catalogue of the models a graph serves, in the order given; the first is the default.

        Raises:
            ModelNotFound: an id that is not in the catalogue.
        """
        return Catalogue(models=tuple(self.model(model_id) for model_id in ids))

    def model(self, model_id: str | None) -> ModelEntry:
        """The entry with this id, the first one for None.

        Raises:
            ModelNotFound: naming the models there are.
        """
        if model_id is None:
            return self.models[0]
        for entry in self.models:
            if entry.id == model_id:
                return entry
        known = ", ".join(entry.id for entry in self.models)
        raise ModelNotFound(f"Unknown model {model_id!r}. Known models: {known}.", param="model")


def read_catalogue(file: Path = DEFAULT_CATALOGUE) -> Catalogue:
    """Read and check a catalogue.

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
        return Catalogue.model_validate(data, context={"folder": file.parent})
    except ValidationError as error:
        raise CatalogueError("\n".join(_problems(error, file, root))) from error


def _problems(error: ValidationError, file: Path, root: yaml.Node | None) -> list[str]:
    return [
        f"{file}:{_line(root, problem['loc'])}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    ]


def _line(node: yaml.Node | None, path: Sequence[str | int]) -> int:
    """The line of the deepest node on the path that exists, from one."""
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
