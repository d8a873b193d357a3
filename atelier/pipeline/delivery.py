"""How finished files reach a client: in the answer as base64, or stored behind a URL."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from atelier.core.params.delivery import OutputFormat, ResponseFormat
from atelier.stores.blobs import BlobStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredFile:
    """A file as an answer carries it: one of the two is set."""

    b64_json: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Delivers files to one client."""

    blobs: BlobStore
    #: URL of a stored file, by its name.
    url_of: Callable[[str], str]

    async def deliver(
        self, data: bytes, output_format: OutputFormat, response_format: ResponseFormat
    ) -> DeliveredFile:
        """Return the file in the form that was asked for; `url` stores it for the store's time to live."""
        if response_format == "b64_json":
            return DeliveredFile(b64_json=base64.b64encode(data).decode("ascii"))
        return DeliveredFile(url=self.url_of(await self.blobs.put(data, output_format)))
