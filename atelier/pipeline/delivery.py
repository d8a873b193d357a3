"""How finished files reach a client: in the answer as base64, or stored behind a URL."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from atelier.core.params.delivery import OutputFormat, ResponseFormat
from atelier.stores.blobs import BlobStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredFile:
    """A file as a response carries it: in base64 or as a URL; exactly one of the two is set."""

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
        """Return the file in base64, or store it for the store's time to live and return its URL."""
        if response_format == "b64_json":
            return DeliveredFile(b64_json=base64.b64encode(data).decode("ascii"))
        return DeliveredFile(url=self.url_of(await self.blobs.put(data, output_format)))
