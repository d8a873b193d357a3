"""A checkpoint of the hub, looked at before its gigabytes are downloaded: its header is a few hundred kilobytes."""

from __future__ import annotations

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from atelier.catalogue.checkpoint_header import check_sdxl
from atelier.catalogue.header import LENGTH_BYTES, Header, Refused, header_length, header_of
from atelier.core.errors import UnsupportedValue
from atelier.hub.repository import HubFile
from atelier.hub.transfer import Source


def check_checkpoint(source: Source, file: HubFile, *, timeout_s: float) -> None:
    """Raise UnsupportedValue, with the reason, if a file of the hub is not a whole SDXL checkpoint. Asks the hub.

    Raises what huggingface_hub raises.
    """
    try:
        check_sdxl(_header(source, file, timeout_s))
    except Refused as refused:
        raise UnsupportedValue(
            f"file: {file.name!r} of {source.repository!r} is not served: {refused}.", param="file"
        ) from refused


def _header(source: Source, file: HubFile, timeout_s: float) -> Header:
    """Read the beginning of a file, and leave when its header is there or is known to be larger than allowed."""
    url = hf_hub_url(source.repository, file.name, revision=source.commit, endpoint=source.endpoint)
    headers = build_hf_headers() | {"accept-encoding": "identity"}
    received, end = bytearray(), LENGTH_BYTES
    with get_session().stream("GET", url, headers=headers, timeout=timeout_s) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_raw():
            received += chunk
            if len(received) >= LENGTH_BYTES:
                end = LENGTH_BYTES + header_length(bytes(received[:LENGTH_BYTES]), file.num_bytes)
            if len(received) >= end > LENGTH_BYTES:
                break
    return header_of(bytes(received[LENGTH_BYTES:end]), file.num_bytes)
