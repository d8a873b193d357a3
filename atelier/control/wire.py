"""Calls and answers between processes: numpy in place of tensors, so that transports carry their memory as it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from atelier.control.batching import Answer
from atelier.control.calls import ControlCall, ControlContext, ControlRow, UnknownContexts
from atelier.control.residuals import Residuals
from atelier.control.transports import TransportFailed
from atelier.core.errors import GenerationFailed
from atelier.models.loading import Placement

logger = logging.getLogger(__name__)

#: The memory of a tensor [rows, h, w, channels], which is how models leave it; bfloat16, which numpy does not know,
#: as int16.
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A `ControlCall` with the contexts that have to be told."""

    controlnet: str
    rows: tuple[ControlRow, ...]
    model_input: Array
    #: [rows]
    timesteps: npt.NDArray[np.generic]
    num_tokens: int
    width: int | None
    contexts: tuple[ControlContext, ...]

    @classmethod
    def of(cls, call: ControlCall, contexts: Sequence[ControlContext] = ()) -> Ask:
        return cls(
            controlnet=call.controlnet,
            rows=call.rows,
            model_input=_array(call.model_input),
            timesteps=call.timesteps.cpu().numpy(),
            num_tokens=call.num_tokens,
            width=call.width,
            contexts=tuple(contexts),
        )

    def call_on(self, placement: Placement) -> ControlCall:
        return ControlCall(
            controlnet=self.controlnet,
            rows=self.rows,
            model_input=_tensor(self.model_input, placement),
            timesteps=torch.tensor(self.timesteps, device=placement.device),
            num_tokens=self.num_tokens,
            width=self.width,
        )


@dataclass(frozen=True, slots=True)
class Made:
    """`Residuals` on their way."""

    skips: tuple[Array, ...]
    hidden_states: Array
    weights_hash: str

    @classmethod
    def of(cls, residuals: Residuals) -> Made:
        skips = tuple(map(_array, residuals.skips))
        return cls(skips, _array(residuals.hidden_states), residuals.weights_hash)

    def residuals_on(self, placement: Placement) -> Residuals:
        skips = tuple(_tensor(skip, placement) for skip in self.skips)
        return Residuals(skips, _tensor(self.hidden_states, placement), self.weights_hash)


#: An error is the replica's own failure on this call.
Reply = Made | UnknownContexts | GenerationFailed


def reply_to(answer: Future[Answer]) -> Reply:
    """Waits for the answer."""
    try:
        made = answer.result()
    except Exception as error:
        # The replica's boundary: the error is logged there and goes to whoever asked.
        logger.exception("residuals failed")
        return GenerationFailed(f"A ControlNet failed: {error}")
    return made if isinstance(made, UnknownContexts) else Made.of(made)


def residuals_of(reply: Reply, placement: Placement) -> Residuals:
    """Raises GenerationFailed as the replica did, or TransportFailed if it forgot what it was told just before."""
    if isinstance(reply, Made):
        return reply.residuals_on(placement)
    if isinstance(reply, GenerationFailed):
        raise reply
    raise TransportFailed("a ControlNet replica forgets what it is told")


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.permute(0, 2, 3, 1).contiguous().cpu()
    array: Array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _tensor(array: Array, placement: Placement) -> torch.Tensor:
    """In the replicas' common precision; on the CPU the very memory, unless it is read-only."""
    tensor = (torch.from_numpy(array) if array.flags.writeable else torch.tensor(array)).to(placement.device)
    if placement.dtype == torch.bfloat16:
        tensor = tensor.view(torch.bfloat16)
    return tensor.permute(0, 3, 1, 2)
