"""Static buffers for the conditions of a batch's rows; a row is one image with one of its prompts, and has a slot.

A row's conditions are written once, when its request is admitted. UNet calls read slots that lie side by side as
views, without copying.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atelier.core.geometry import Size
from atelier.families.unet.adapters.rows import Forms
from atelier.families.unet.adapters.slots import AdapterSlots
from atelier.families.unet.buffers import capacity, grown
from atelier.families.unet.conditions import MASKED, Conditions, KeysValues, PromptConditions, add_time_ids
from atelier.models.transfer import uploaded


class ConditionSlots:
    """Conditions of rows by slot. Buffers grow as needed, and a failure to grow leaves them as they were."""

    def __init__(self) -> None:
        #: Keys of all layers, then their values; [slots, tokens, width of the layer] each.
        self._keys_values: list[torch.Tensor] = []
        #: `Conditions.prompt_bias`, `pooled_prompt_embeds` and `add_time_ids` of the slots.
        self._others: list[torch.Tensor] = []
        self._adapters = AdapterSlots()

    def write(self, slots: Sequence[int], prompt: PromptConditions, size: Size) -> None:
        """Write the conditions of rows with one prompt, whose images have this size, into slots."""
        keys_values = [*prompt.keys_values.keys, *prompt.keys_values.values]
        self._grow(max(slots) + 1, prompt, keys_values)
        length, pooled = prompt.num_tokens, prompt.pooled_prompt_embeds
        bias, pooled_of_slot, time_ids = self._others
        times = uploaded(torch.tensor(add_time_ids(size), dtype=pooled.dtype), pooled.device)
        self._adapters.write(slots, prompt.adapters)
        for slot in slots:
            if length < self._num_tokens:
                torch._foreach_zero_([buffer[slot, length:] for buffer in self._keys_values])
            taken = [buffer[slot, :length] for buffer in self._keys_values]
            torch._foreach_copy_(taken, [layer[0] for layer in keys_values])
            bias[slot, 0, :length], bias[slot, 0, length:] = 0, MASKED
            pooled_of_slot[slot], time_ids[slot] = pooled, times

    def copy(self, source: int, target: int) -> None:
        """Copy what is in one slot to another one, which may lie behind the last."""
        if target >= self._num_slots:
            self._resize(capacity(target + 1, self._num_slots), self._num_tokens)
        self._adapters.copy(source, target)
        buffers = [*self._keys_values, *self._others]
        torch._foreach_copy_([buffer[target] for buffer in buffers], [buffer[source] for buffer in buffers])

    def read(self, slots: slice | torch.Tensor, *, num_tokens: int, forms: Sequence[Forms]) -> Conditions:
        """Return the conditions in slots: views for a slice, copies for indices.

        Prompts have `num_tokens` tokens; `forms` are those of the LoRAs of all requests in slots.
        """
        num_layers = len(self._keys_values) // 2
        keys_values = tuple(buffer[slots, :num_tokens] for buffer in self._keys_values)
        bias, pooled, time_ids = self._others
        return Conditions(
            prompt=KeysValues(keys_values[:num_layers], keys_values[num_layers:]),
            prompt_bias=bias[slots, :, :num_tokens],
            pooled_prompt_embeds=pooled[slots],
            add_time_ids=time_ids[slots],
            adapters=self._adapters.read(slots, forms),
        )

    @property
    def _num_slots(self) -> int:
        return len(self._others[0]) if self._others else 0

    @property
    def _num_tokens(self) -> int:
        return self._others[0].shape[-1] if self._others else 0

    def _grow(self, num_slots: int, prompt: PromptConditions, keys_values: Sequence[torch.Tensor]) -> None:
        if not self._others:
            pooled = prompt.pooled_prompt_embeds
            self._keys_values = [of.new_empty((0, 0, of.shape[-1])) for of in keys_values]
            self._others = [pooled.new_empty(shape) for shape in ((0, 1, 0), (0, len(pooled)), (0, 6))]
        num_slots, num_tokens = capacity(num_slots, self._num_slots), max(prompt.num_tokens, self._num_tokens)
        if (num_slots, num_tokens) != (self._num_slots, self._num_tokens):
            self._resize(num_slots, num_tokens)

    def _resize(self, num_slots: int, num_tokens: int) -> None:
        keys_values = [grown(buffer, (num_slots, num_tokens, buffer.shape[-1])) for buffer in self._keys_values]
        bias, pooled, time_ids = self._others
        others = [
            grown(bias, (num_slots, 1, num_tokens), fill=MASKED),
            grown(pooled, (num_slots, pooled.shape[-1])),
            grown(time_ids, (num_slots, time_ids.shape[-1])),
        ]
        self._keys_values, self._others = keys_values, others


def new_slots() -> ConditionSlots:
    """Return buffers without any slot."""
    return ConditionSlots()
