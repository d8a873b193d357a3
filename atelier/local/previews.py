"""Previews as images: latents of running requests are decoded in a thread of their own, beside the step loop.

A preview never holds up anything: the thread gives way to all others, and what it has not begun when its stream ends
is left out.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
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
#: Maximum number of requests whose previews are decoded in one call.
_MAX_TOGETHER = 8
#: Time in which the others of a step come.
_LINGER_S = 0.005


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """The preview of a step."""

    request: DenoiseRequest
    step: int
    #: [images, 4, height / 8, width / 8]
    latents: Floats
    decoder: PreviewDecoder
    emit: Callable[[DecodedPreview], None]

    def shares_call_with(self, other: _Waiting) -> bool:
        return self.decoder is other.decoder and self.latents.shape[1:] == other.latents.shape[1:]


class Previews:
    """Decodes the previews of the models that have a preview decoder."""

    def __init__(self, catalogue: Catalogue, placement: Placement) -> None:
        """Load the decoders of the catalogue's models; those that name the same files share one.

        So do models that come later. One that brings a decoder of its own has linear previews.

        Raises ModelUnavailable if files are missing or corrupt.
        """
        self._thread = ThreadPoolExecutor(1, "previews", initializer=_give_way)
        self._catalogue = catalogue
        self._lock = threading.Lock()
        # Threads share this, and use it only under `_lock`.
        self._waiting: list[_Waiting] = []
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

        def receive(event: Event) -> None:
            if not isinstance(event, StepEvent) or event.preview is None:
                emit(event)
                return
            emit(replace(event, preview=None))
            with self._lock:
                self._waiting.append(_Waiting(request, event.step, event.preview, decoder, emit))
            self._thread.submit(self._decode_next)

        try:
            yield receive
        finally:
            with self._lock:
                self._waiting = [one for one in self._waiting if one.request is not request]

    def _decode_next(self) -> None:
        """Decode the preview that has waited longest, with others of its size: that takes half as long."""
        time.sleep(_LINGER_S)
        with self._lock:
            together = [one for one in self._waiting if one.shares_call_with(self._waiting[0])][:_MAX_TOGETHER]
            self._waiting = [one for one in self._waiting if one not in together]
        if not together:
            return
        try:
            pixels = together[0].decoder.decode(np.concatenate([one.latents for one in together]))
        except Exception:
            ids = ", ".join(one.request.request_id for one in together)
            logger.exception("a preview was not decoded", extra={"request_id": ids})
            return
        for one in together:
            one.emit(DecodedPreview(one.step, pixels[: len(one.latents)]))
            pixels = pixels[len(one.latents) :]

    def close(self) -> None:
        """Stop the thread after the preview in progress."""
        self._thread.shutdown(cancel_futures=True)


def _give_way() -> None:
    """Let the current thread use one OpenMP thread, and no core that another thread wants."""
    torch.set_num_threads(1)
    if sys.platform == "linux":  # elsewhere niceness belongs to the process
        os.nice(_NICENESS)
