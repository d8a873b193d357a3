"""The request and the response of a call between a Denoiser and a ControlNet replica in another process."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass

from atelier.control.batching import Answer
from atelier.control.calls import ControlCall, ControlContext, UnknownContexts
from atelier.control.residuals import Residuals
from atelier.control.transports import TransportFailed
from atelier.core.errors import GenerationFailed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResidualsRequest:
    """A `ControlCall` with the contexts that the replica does not have yet."""

    call: ControlCall
    contexts: tuple[ControlContext, ...] = ()


#: `GenerationFailed` means that the ControlNet raised an error on this call.
ResidualsResponse = Residuals | UnknownContexts | GenerationFailed


def response_of(answer: Future[Answer]) -> ResidualsResponse:
    """Wait for a call's answer and return it, or GenerationFailed if the call raised an error."""
    try:
        return answer.result()
    except Exception as error:
        # Log the error here; the client receives it as `GenerationFailed` and raises it.
        logger.exception("residuals failed")
        return GenerationFailed(f"A ControlNet failed: {error}")


def residuals_of(response: ResidualsResponse) -> Residuals:
    """Return the residuals of a response.

    Raises GenerationFailed if the replica failed, or TransportFailed if it lacks contexts that it was just sent.
    """
    if isinstance(response, Residuals):
        return response
    if isinstance(response, GenerationFailed):
        raise response
    raise TransportFailed("a ControlNet replica has lost contexts that it was just sent")
