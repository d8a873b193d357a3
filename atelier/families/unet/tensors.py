"""The tensors that programs of UNets and ControlNets read.

A program (`atelier.models.programs`) takes tensors only, so `Conditions` become tuples of tensors on the way in and
conditions again inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from atelier.core.geometry import Size
from atelier.families.unet.adapters.rows import RowAdapters, RowChanges, RowFactors
from atelier.families.unet.attention import prompt_conditions
from atelier.families.unet.conditions import Conditions, KeysValues, stack
from atelier.families.unet.embeds import zero_embeds
from atelier.models.loading import Placement

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

#: Number of rows, and latent height and width, of the examples that programs are traced with.
EXAMPLE_ROWS, EXAMPLE_SIDE = 2, 16

#: The layers that a call's LoRAs change, each with whether by weights and whether by factors.
Changed = tuple[tuple[str, bool, bool], ...]
#: Tensors of `Conditions` in the order of its fields, those of changes by the names of their layers.
Tensors = tuple[tuple[torch.Tensor, ...], ...]


def example_conditions(model: UNet2DConditionModel | ControlNetModel, placement: Placement) -> Conditions:
    """Return conditions of `EXAMPLE_ROWS` rows without LoRAs, for an installed model."""
    prompt = prompt_conditions(model, zero_embeds(model), placement)
    size = Size(width=EXAMPLE_SIDE * 8, height=EXAMPLE_SIDE * 8)
    return example_of(stack([prompt], [size]))


def example_of(conditions: Conditions) -> Conditions:
    """Return conditions of `EXAMPLE_ROWS` rows, all equal to the first one."""
    first = torch.zeros(EXAMPLE_ROWS, dtype=torch.long)
    tensors = tuple(tuple(tensor[first] for tensor in group) for group in tensors_of(conditions))
    return conditions_of(tensors, changed_layers(conditions.adapters))


def changed_layers(adapters: RowAdapters) -> Changed:
    """Return which layers a call's LoRAs change, and how."""
    return tuple(
        (name, adapters[name].weights is not None, adapters[name].factors is not None) for name in sorted(adapters)
    )


def tensors_of(conditions: Conditions) -> Tensors:
    """Return the tensors of conditions."""
    prompt, changes = conditions.prompt, [conditions.adapters[name] for name in sorted(conditions.adapters)]
    weights = [change.weights for change in changes if change.weights is not None]
    factors = [tensor for change in changes if (of := change.factors) is not None for tensor in (of.down, of.up)]
    others = (conditions.prompt_bias, conditions.pooled_prompt_embeds, conditions.add_time_ids)
    # TorchScript takes no empty tuple.
    changed = ((*weights, *factors),) if changes else ()
    return (prompt.keys, prompt.values, others, *changed)


def conditions_of(tensors: Tensors, changed: Changed) -> Conditions:
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
