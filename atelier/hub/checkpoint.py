"""A checkpoint of the hub, looked at before its gigabytes are downloaded: its header takes a few kilobytes."""

from __future__ import annotations

from huggingface_hub import HfApi
from huggingface_hub.errors import SafetensorsParsingError

from atelier.catalogue.checkpoint_header import check_sdxl
from atelier.catalogue.header import Header, Refused
from atelier.core.errors import UnsupportedValue
from atelier.hub.repository import HubFile, Repository


def check_checkpoint(api: HfApi, repository: Repository, file: HubFile) -> None:
    """Raise UnsupportedValue, with the reason, if a file of the hub is not a whole SDXL checkpoint. Asks the hub."""
    try:
        told = api.parse_safetensors_file_metadata(repository.id, file.name, revision=repository.revision)
        check_sdxl(Header({name: tuple(tensor.shape) for name, tensor in told.tensors.items()}, told.metadata))
    except SafetensorsParsingError as error:
        raise _refusal(repository, file, "it is not a safetensors file") from error
    except Refused as refused:
        raise _refusal(repository, file, str(refused)) from refused


def _refusal(repository: Repository, file: HubFile, why: str) -> UnsupportedValue:
    return UnsupportedValue(f"file: {file.name!r} of {repository.id!r} is not served: {why}.", param="file")
