"""One step of a batch: of all requests together, in smaller calls if memory is short, or else of one at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from atelier.engine.batch import Batch
from atelier.engine.request import Submitted
from atelier.engine.runner import Runner

logger = logging.getLogger(__name__)


def take_step(runner: Runner, batch: Batch, isolated: Callable[[Submitted], AbstractContextManager[None]]) -> None:
    """Take the next step of a batch's requests.

    If that fails, each of them takes its step alone, inside the context that `isolated` returns for it, which lets
    torch.AcceleratorError through: the device has failed, and no later call succeeds.
    """
    while (failure := _failure(runner, batch)) is not None:
        if issubclass(failure, torch.OutOfMemoryError) and runner.halve_calls(batch):
            logger.warning("out of memory; %d rows in a call from now on", batch.largest_call)
            continue
        logger.warning("taking the step of each request, one at a time")
        for request in list(batch.requests):
            with isolated(request.submitted):
                runner.step([request], batch.pack_alone(request))
        return


def _failure(runner: Runner, batch: Batch) -> type[Exception] | None:
    """Take the step, or return the kind of its error: the error itself keeps the tensors of the failed step."""
    try:
        runner.step(batch.requests, batch.packed)
    except Exception as error:
        logger.exception("a step failed", extra={"key": batch.key})
        return type(error)
    return None
