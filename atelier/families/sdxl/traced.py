"""The two halves of a UNet as programs of TorchScript, which run on the CPU without Python.

Python takes 8 ms of every call of the zoo's UNet, however many rows the call has, and calls in other threads wait
meanwhile. A program has the operations of `unet.encode_half` and `unet.decode_half` and gives the same bits, for any
number of rows, size of images and length of prompts. There is a pair of programs for each set of layers that LoRAs
change; see docs/decisions/unet-without-python.md.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from cachetools import LRUCache

from atelier.core.geometry import Size
from atelier.families.sdxl.adapters.rows import RowAdapters, RowChanges, RowFactors
from atelier.families.sdxl.attention import prompt_conditions
from atelier.families.sdxl.conditions import Conditions, KeysValues, stack
from atelier.families.sdxl.embeds import zero_embeds
from atelier.families.sdxl.unet import Encoded, decode_half, encode_half
from atelier.models.loading import Placement

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

logger = logging.getLogger(__name__)

_MAX_PROGRAMS = 16
#: Tracing takes about as much time as Python takes in a hundred calls of two halves. After so many halves it costs no
#: more than it might have saved until then, however often sets of LoRAs change.
_NUM_HALVES_BEFORE_TRACE = 200
_EXAMPLE_ROWS, _EXAMPLE_SIDE = 2, 16

#: PyTorch traces one model at a time in a process.
_TRACING = ThreadPoolExecutor(1, "trace", initializer=torch.set_num_threads, initargs=(1,))

#: The layers that a call's LoRAs change, each with whether by weights and whether by factors.
Changed = tuple[tuple[str, bool, bool], ...]


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
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            hidden_states, emb, skips = programs.encode_half(model_input, timesteps, _tensors(conditions))
        return Encoded(hidden_states, emb, skips)

    def decode_half(self, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
        """Run the UNet from its middle block to `noise_pred`, [rows, 4, h, w]."""
        programs = self._programs_for(conditions)
        if programs is None:
            return decode_half(self._unet, encoded, conditions)
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            noise_pred: torch.Tensor = programs.decode_half(
                encoded.hidden_states, encoded.emb, encoded.skips, _tensors(conditions)
            )
        return noise_pred

    def _programs_for(self, conditions: Conditions) -> _Programs | None:
        """Return the programs for the LoRAs of a call; if there are none, have them traced as soon as that pays."""
        if not conditions.adapters:
            return self._without_loras
        changed = _changed(conditions.adapters)
        with self._lock:
            programs = self._with_loras.get(changed, 0)
            if not isinstance(programs, int):
                return programs
            self._with_loras[changed] = programs + 1
        if programs + 1 == _NUM_HALVES_BEFORE_TRACE:
            _TRACING.submit(self._trace, changed, conditions)
        return None

    def _trace(self, changed: Changed, conditions: Conditions) -> None:
        try:
            programs = _traced(self._unet, conditions)
        except Exception:
            logger.exception("a UNet with LoRAs was not traced; it runs without a program")
            return
        with self._lock:
            self._with_loras[changed] = programs


def trace(unet: UNet2DConditionModel, placement: Placement) -> TracedUNet:
    """Trace an installed UNet, in a second or two."""
    prompt = prompt_conditions(unet, zero_embeds(unet), placement)
    conditions = stack([prompt], [Size(width=_EXAMPLE_SIDE * 8, height=_EXAMPLE_SIDE * 8)])
    return TracedUNet(unet, _TRACING.submit(_traced, unet, conditions).result())


#: Tensors of `Conditions` in the order of its fields, those of changes by the names of their layers.
_Tensors = tuple[tuple[torch.Tensor, ...], ...]


class _EncodeHalf(torch.nn.Module):
    def __init__(self, unet: UNet2DConditionModel, changed: Changed) -> None:
        super().__init__()
        self._unet, self._changed = unet, changed

    def forward(
        self, model_input: torch.Tensor, timesteps: torch.Tensor, tensors: _Tensors
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        encoded = encode_half(self._unet, model_input, timesteps, _conditions(tensors, self._changed))
        return encoded.hidden_states, encoded.emb, encoded.skips


class _DecodeHalf(torch.nn.Module):
    def __init__(self, unet: UNet2DConditionModel, changed: Changed) -> None:
        super().__init__()
        self._unet, self._changed = unet, changed

    def forward(
        self, hidden_states: torch.Tensor, emb: torch.Tensor, skips: tuple[torch.Tensor, ...], tensors: _Tensors
    ) -> torch.Tensor:
        return decode_half(self._unet, Encoded(hidden_states, emb, skips), _conditions(tensors, self._changed))


@torch.inference_mode()
def _traced(unet: UNet2DConditionModel, conditions: Conditions) -> _Programs:
    """Trace a UNet with an example of a few rows, which have the conditions of the first one."""
    changed = _changed(conditions.adapters)
    first = torch.zeros(_EXAMPLE_ROWS, dtype=torch.long)
    tensors = tuple(tuple(tensor[first] for tensor in group) for group in _tensors(conditions))
    dtype = conditions.prompt_bias.dtype
    model_input = torch.zeros(_EXAMPLE_ROWS, unet.config.in_channels, _EXAMPLE_SIDE, _EXAMPLE_SIDE, dtype=dtype)
    encode, timesteps = _EncodeHalf(unet, changed), torch.ones(_EXAMPLE_ROWS)
    with warnings.catch_warnings():
        # Of branches by shape, which tests/unit/families/test_traced.py compares, and of TorchScript's deprecation.
        warnings.simplefilter("ignore")
        return _Programs(
            torch.jit.trace(encode, (model_input, timesteps, tensors), check_trace=False),
            torch.jit.trace(
                _DecodeHalf(unet, changed), (*encode(model_input, timesteps, tensors), tensors), check_trace=False
            ),
        )


def _changed(adapters: RowAdapters) -> Changed:
    return tuple(
        (name, adapters[name].weights is not None, adapters[name].factors is not None) for name in sorted(adapters)
    )


def _tensors(conditions: Conditions) -> _Tensors:
    prompt, changes = conditions.prompt, [conditions.adapters[name] for name in sorted(conditions.adapters)]
    weights = [change.weights for change in changes if change.weights is not None]
    factors = [tensor for change in changes if (of := change.factors) is not None for tensor in (of.down, of.up)]
    others = (conditions.prompt_bias, conditions.pooled_prompt_embeds, conditions.add_time_ids)
    # TorchScript takes no empty tuple.
    changed = ((*weights, *factors),) if changes else ()
    return (prompt.keys, prompt.values, others, *changed)


def _conditions(tensors: _Tensors, changed: Changed) -> Conditions:
    """Return the conditions of which these are the tensors."""
    keys, values, (prompt_bias, pooled_prompt_embeds, add_time_ids), *of_changes = tensors
    return Conditions(
        prompt=KeysValues(keys, values),
        prompt_bias=prompt_bias,
        pooled_prompt_embeds=pooled_prompt_embeds,
        add_time_ids=add_time_ids,
        adapters=_row_adapters(of_changes[0], changed) if of_changes else {},
    )


def _row_adapters(tensors: tuple[torch.Tensor, ...], changed: Changed) -> Mapping[str, RowChanges]:
    weights = iter(tensors)
    of_layers = {name: next(weights) for name, has_weights, _ in changed if has_weights}
    factors = {name: RowFactors(next(weights), next(weights)) for name, _, has_factors in changed if has_factors}
    return {name: RowChanges(of_layers.get(name), factors.get(name)) for name, _, _ in changed}
