"""The two halves of a UNet as programs of TorchScript, which run on the CPU without Python.

Python takes 8 ms of every call of the zoo's UNet, however many rows the call has, and calls in other threads wait
meanwhile. A program has the operations of `unet.encode_half` and `unet.decode_half` and gives the same bits, for any
number of rows, size of images and length of prompts. There is a pair of programs for each set of layers that LoRAs
change; see docs/decisions/unet-without-python.md.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from cachetools import LRUCache

from atelier.families.unet.conditions import Conditions
from atelier.families.unet.halves import Encoded, decode_half, encode_half
from atelier.families.unet.tensors import (
    EXAMPLE_ROWS,
    EXAMPLE_SIDE,
    Changed,
    Tensors,
    changed_layers,
    conditions_of,
    example_conditions,
    example_of,
    tensors_of,
)
from atelier.models.loading import Placement
from atelier.models.programs import TRACING, run, traced

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

logger = logging.getLogger(__name__)

_MAX_PROGRAMS = 16
#: Tracing takes about as much time as Python takes in a hundred calls of two halves. After so many halves it costs no
#: more than it might have saved until then, however often sets of LoRAs change.
_NUM_HALVES_BEFORE_TRACE = 200


@dataclass(frozen=True, slots=True)
class _Programs:
    encode_half: torch.jit.ScriptModule
    decode_half: torch.jit.ScriptModule


class TracedUNet:
    """A UNet on the CPU.

    Calls with LoRAs are run by Python at first. After a hundred with changes of the same layers, their programs are
    traced in another thread.
    """

    def __init__(self, unet: UNet2DConditionModel, programs: _Programs) -> None:
        """`programs` are those for calls without LoRAs."""
        self._unet = unet
        self._lock = threading.Lock()
        self._without_loras = programs
        #: Pairs of programs; before they have been traced, the number of halves that could have used them.
        self._with_loras: LRUCache[Changed, _Programs | int] = LRUCache(_MAX_PROGRAMS)

    def encode_half(self, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions) -> Encoded:
        """Run the UNet to the end of its middle block, on `model_input` [rows, 4, h, w] at `timesteps` [rows]."""
        programs = self._programs_for(conditions)
        if programs is None:
            return encode_half(self._unet, model_input, timesteps, conditions)
        return Encoded(*run(programs.encode_half, model_input, timesteps, tensors_of(conditions)))

    def decode_half(self, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
        """Run the UNet from its middle block to `noise_pred`, [rows, 4, h, w]."""
        programs = self._programs_for(conditions)
        if programs is None:
            return decode_half(self._unet, encoded, conditions)
        noise_pred: torch.Tensor = run(
            programs.decode_half, encoded.hidden_states, encoded.emb, encoded.skips, tensors_of(conditions)
        )
        return noise_pred

    def _programs_for(self, conditions: Conditions) -> _Programs | None:
        """Return the programs for the LoRAs of a call; if there are none, have them traced as soon as that pays."""
        if not conditions.adapters:
            return self._without_loras
        changed = changed_layers(conditions.adapters)
        with self._lock:
            programs = self._with_loras.get(changed, 0)
            if not isinstance(programs, int):
                return programs
            self._with_loras[changed] = programs + 1
        if programs + 1 == _NUM_HALVES_BEFORE_TRACE:
            TRACING.submit(self._trace, changed, conditions)
        return None

    def _trace(self, changed: Changed, conditions: Conditions) -> None:
        try:
            programs = _traced(self._unet, example_of(conditions))
        except Exception:
            logger.exception("a UNet with LoRAs was not traced; it runs without a program")
            return
        with self._lock:
            self._with_loras[changed] = programs


def trace(unet: UNet2DConditionModel, placement: Placement) -> TracedUNet:
    """Trace an installed UNet, in a second or two."""
    conditions = example_conditions(unet, placement)
    return TracedUNet(unet, TRACING.submit(_traced, unet, conditions).result())


class _EncodeHalf(torch.nn.Module):
    def __init__(self, unet: UNet2DConditionModel, changed: Changed) -> None:
        super().__init__()
        self._unet, self._changed = unet, changed

    def forward(
        self, model_input: torch.Tensor, timesteps: torch.Tensor, tensors: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        encoded = encode_half(self._unet, model_input, timesteps, conditions_of(tensors, self._changed))
        return encoded.hidden_states, encoded.emb, encoded.skips


class _DecodeHalf(torch.nn.Module):
    def __init__(self, unet: UNet2DConditionModel, changed: Changed) -> None:
        super().__init__()
        self._unet, self._changed = unet, changed

    def forward(
        self, hidden_states: torch.Tensor, emb: torch.Tensor, skips: tuple[torch.Tensor, ...], tensors: Tensors
    ) -> torch.Tensor:
        return decode_half(self._unet, Encoded(hidden_states, emb, skips), conditions_of(tensors, self._changed))


@torch.inference_mode()
def _traced(unet: UNet2DConditionModel, conditions: Conditions) -> _Programs:
    """Trace a UNet with an example of a few rows."""
    changed, tensors = changed_layers(conditions.adapters), tensors_of(conditions)
    shape = (EXAMPLE_ROWS, unet.config.in_channels, EXAMPLE_SIDE, EXAMPLE_SIDE)
    inputs = (torch.zeros(shape, dtype=conditions.prompt_bias.dtype), torch.ones(EXAMPLE_ROWS), tensors)
    encode = _EncodeHalf(unet, changed)
    return _Programs(traced(encode, inputs), traced(_DecodeHalf(unet, changed), (*encode(*inputs), tensors)))
