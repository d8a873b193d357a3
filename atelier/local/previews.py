"""Previews as images: latents of running requests are decoded in a thread of their own, beside the step loop.

A preview never holds up anything: the thread gives way to all others, and what it has not begun when its stream ends
is left out.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files
from atelier.core.conditioning import Floats
from atelier.core.denoising import DecodedPreview, DenoiseRequest, StepEvent
from atelier.engine.request import Emit, Event
from atelier.models.loading import Placement
from atelier.models.preview_decoder import PreviewDecoder

logger = logging.getLogger(__name__)

#: Added to the thread's niceness: beside a busy step loop it gets a tenth of a core.
_NICENESS = 10


class Previews:
    """Decodes the previews of the models that have a preview decoder."""

    def __init__(self, catalogue: Catalogue, placement: Placement) -> None:
        """Load the decoders of the catalogue's models; those that name the same files share one.

        So do models that come later. One that brings a decoder of its own has linear previews.

        Raises ModelUnavailable if files are missing or corrupt.
        """
        self._thread = ThreadPoolExecutor(1, "previews", initializer=_give_way)
        self._catalogue = catalogue
        self._decoders: dict[Files | None, PreviewDecoder] = {}
        for entry in catalogue.models:
            files = entry.preview_decoder
            if files is not None and files not in self._decoders:
                self._decoders[files] = self._thread.submit(PreviewDecoder, entry.id, files, placement).result()

    @contextmanager
    def decoded(self, request: DenoiseRequest, emit: Callable[[Event | DecodedPreview], None]) -> Iterator[Emit]:
        """Yield the function that receives the request's events in place of `emit`.

        It passes them on at once, without the latents of their previews; those follow as `DecodedPreview`, in order,
        from the thread of previews. Previews that are not begun when the context is left are dropped. A model without
        a decoder keeps its latents.
        """
        decoder = self._decoders.get(self._catalogue.model(request.pass_.model).preview_decoder)
        if decoder is None or not request.num_previews:
            yield emit
            return
        decoding: list[Future[None]] = []

        def decode(step: int, latents: Floats) -> None:
            try:
                pixels = decoder.decode(latents)
            except Exception:
                logger.exception("a preview was not decoded", extra={"request_id": request.request_id})
            else:
                emit(DecodedPreview(step, pixels))

        def receive(event: Event) -> None:
            if not isinstance(event, StepEvent) or event.preview is None:
                emit(event)
                return
            emit(replace(event, preview=None))
            decoding.append(self._thread.submit(decode, event.step, event.preview))

        try:
            yield receive
        finally:
            for preview in decoding:
                preview.cancel()

    def close(self) -> None:
        """Stop the thread after the preview in progress."""
        self._thread.shutdown(cancel_futures=True)


def _give_way() -> None:
    """Let the current thread use one OpenMP thread, and no core that another thread wants."""
    torch.set_num_threads(1)
    if sys.platform == "linux":  # elsewhere niceness belongs to the process
        os.nice(_NICENESS)
