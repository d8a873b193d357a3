"""Download the models that a Serve config or a catalogue names, so that no replica waits for the network.

`python -m atelier.models.fetch serve_config.yaml`, once on every node, with the ATELIER_MODELS_DIR of the server.
Repositories of the hub are downloaded, only the files that are loaded and no pickles; what is there already is not
downloaded again. Several may run at once. The exit status is 0 if every model is there, 1 if one is not, and 2 if the
config or the catalogue is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from pydantic import ValidationError

from atelier.catalogue.catalogue import Catalogue, CatalogueError, read_catalogue
from atelier.catalogue.selection import Selection
from atelier.catalogue.storage import Storage
from atelier.core.errors import ModelNotFound, ModelUnavailable
from atelier.models.files import Source, absent_files, sources
from atelier.models.progress import ProgressLines


class WrongFile(Exception):
    """The file is neither a Serve config nor a catalogue; the message says why."""


def main() -> int:
    """Fetch the models that the file in the arguments names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m atelier.models.fetch", description=__doc__)
    parser.add_argument(
        "file", type=Path, metavar="CONFIG", help="a Serve config, or a catalogue for all of its models"
    )
    try:
        catalogues = list(read_catalogues(parser.parse_args().file, os.environ))
    except (WrongFile, CatalogueError, ModelNotFound) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    problems = list(dict.fromkeys(problem for catalogue in catalogues for problem in fetch(catalogue)))
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


def read_catalogues(file: Path, environment: Mapping[str, str]) -> Iterator[Catalogue]:
    """Yield the models that each application of a Serve config names, or all of a catalogue.

    Raises:
        WrongFile: the file cannot be read, or an application's `args` are wrong.
        CatalogueError: the catalogue is missing or wrong.
        ModelNotFound: an id is not in the catalogue.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise WrongFile(f"Cannot read {file}: {error}") from error
    if not isinstance(content, dict) or "applications" not in content:
        yield read_catalogue(file, Storage.from_environment(environment, require_weights=True))
        return
    for application in content["applications"]:
        args = application.get("args") or {}
        try:
            selection = Selection.model_validate({k: v for k, v in args.items() if k in Selection.model_fields})
        except ValidationError as error:
            mistakes = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise WrongFile(f"{file}: the args of {application.get('name')} are wrong: {mistakes}") from error
        yield selection.read(environment)


def fetch(catalogue: Catalogue) -> Iterator[str]:
    """Download every repository of the catalogue; yields a message for each model that is not there afterwards."""
    for source in sources(catalogue):
        try:
            _fetch(source)
        except ModelUnavailable as error:
            yield error.message
        except (OSError, ValueError) as error:
            yield f"{source.entry}: cannot fetch {source.place}. {_advice(error)} ({error})"
    yield from absent_files(catalogue)


def _fetch(source: Source) -> None:
    """Download a repository unless it is there, and say so; raises what `Source` raises."""
    try:
        _say(f"{source.entry}: {source.local_folder()} is there")
    except ModelUnavailable:
        if source.files.folder is not None:
            raise
        _say(f"{source.entry}: fetching {source.place}")
        start_s = time.monotonic()
        folder = source.download(None if sys.stderr.isatty() else ProgressLines)
        _say(f"{source.entry}: fetched in {time.monotonic() - start_s:.0f} s to {folder}")


def _advice(error: Exception) -> str:
    match error:
        case RepositoryNotFoundError():
            return "Correct `files` in the catalogue; a private or gated repository needs a token in HF_TOKEN."
        case HfHubHTTPError() | LocalEntryNotFoundError():
            return "Check the network, HF_ENDPOINT, HF_TOKEN and `revision`, and unset HF_HUB_OFFLINE."
        case _:
            return "Check the network, the free space and who may write there; what has arrived is kept."


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
