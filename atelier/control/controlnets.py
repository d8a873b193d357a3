"""The ControlNets of a replica: prepared contexts, and residuals for packed rows (images with one prompt each)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from diffusers import ControlNetModel

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.families import FamilyName
from atelier.control.calls import ContextId, ControlCall, ControlContext, ControlRow
from atelier.control.programs import ComputeResiduals, trace
from atelier.control.residuals import Residuals, embed_control_image, residuals, scales_of_layers
from atelier.core.conditioning import TOKENS_PER_CHUNK, Role
from atelier.core.errors import ModelUnavailable
from atelier.core.geometry import Size
from atelier.families.family import family_of
from atelier.families.unet.attention import prompt_conditions
from atelier.families.unet.conditions import Conditions, PromptConditions, stack
from atelier.families.unet.embeds import zero_embeds
from atelier.models.hashes import weights_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.sources import controlnet_source
from atelier.models.transfer import uploaded

#: A context (about 25 MB at SDXL's size) is evicted after this many calls without it; it can be sent again.
_EVICTED_AFTER_CALLS = 16
#: Number of passes whose stacked conditions are kept for the next step, for each call that a step may have side by
#: side: enough for one batch with two ControlNets.
_MAX_STACKED = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A context converted to the tensors that its ControlNet reads in every step."""

    #: Embedding of the control image, [1, channels, h, w].
    embedding: torch.Tensor
    prompts: Mapping[Role, PromptConditions]
    size: Size


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass of a ControlNet."""

    #: Input of the UNet, timesteps, conditions and embeddings of the control images.
    inputs: tuple[torch.Tensor, torch.Tensor, Conditions, torch.Tensor]
    #: Factors on the residuals, [skips + 1, rows]; None if all are 1.
    scales: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Stacked:
    """What is the same in all steps of some rows."""

    conditions: Conditions
    #: Embeddings of the control images, [rows, channels, h, w].
    embedding: torch.Tensor
    #: See `_Pass.scales`.
    scales: torch.Tensor | None


def load_controlnets(catalogue: Catalogue, placement: Placement, host: ModelHost | None = None) -> ControlNets:
    """Load a catalogue's ControlNets and warm them up at their models' default sizes. Raises ModelUnavailable.

    `host` is the one of the UNets in this process, if there are any.
    """
    controlnets = ControlNets(catalogue, placement, host or ModelHost(placement))
    for entry in catalogue.controlnets:
        controlnets.warm_up(entry.id, catalogue.model(entry.base).defaults.size)
    return controlnets


class ControlNets:
    """The ControlNets of a replica and the contexts they have prepared.

    Not thread-safe: used from one thread, apart from what `ready` returns.
    """

    def __init__(self, catalogue: Catalogue, placement: Placement, host: ModelHost) -> None:
        """Load all ControlNets, one after the other, into `host`.

        Raises ModelUnavailable if files are missing, or if one is no plain ControlNet of its base model's family.
        """
        entries = {entry.id: entry for entry in catalogue.controlnets}
        self._hosted = {name: host.add(name, controlnet_source(entry, placement)) for name, entry in entries.items()}
        #: Hashes of the weights, by the ControlNets' ids.
        self.weights: dict[str, str] = {}
        self._num_skips: dict[str, int] = {}
        self._programs: dict[str, ComputeResiduals] = {}
        on_cpu = placement.device == "cpu"
        for name, hosted in self._hosted.items():
            with hosted.lease() as controlnet:
                _install(name, catalogue.model(entries[name].base).family, controlnet)
                self.weights[name] = weights_hash(controlnet)
                self._num_skips[name] = len(controlnet.controlnet_down_blocks)
                if on_cpu:
                    self._programs[name] = trace(controlnet, placement)
        self._placement = placement
        self._prepared: dict[ContextId, _Prepared] = {}
        #: Number of the last call that used each context.
        self._last_call: dict[ContextId, int] = {}
        self._num_calls = 0
        calls_side_by_side = torch.get_num_threads() if on_cpu else 1
        self._stacked: LRUCache[tuple[tuple[ControlRow, ...], int], _Stacked] = LRUCache(
            _MAX_STACKED * calls_side_by_side
        )

    def unknown(self, rows: Iterable[ControlRow]) -> tuple[ContextId, ...]:
        """Return the ids of the rows' contexts that were never prepared, or were evicted."""
        return tuple(dict.fromkeys(row.context_id for row in rows if row.context_id not in self._prepared))

    @torch.inference_mode()
    def prepare(self, context: ControlContext) -> None:
        """Embed the control image and prepare the prompts, once for all steps of a request."""
        pixels = uploaded(torch.tensor(context.control_image), self._placement.device)
        image = pixels.permute(2, 0, 1)[None].to(self._placement.dtype) / 255
        height, width, _ = context.control_image.shape
        with self._hosted[context.controlnet].lease() as controlnet:
            self._last_call[context.context_id] = self._num_calls
            self._prepared[context.context_id] = _Prepared(
                embed_control_image(controlnet, image),
                {
                    role: prompt_conditions(controlnet, embeds, self._placement)
                    for role, embeds in context.embeds.items()
                },
                Size(width=width, height=height),
            )

    def residuals(self, call: ControlCall) -> Residuals:
        """Compute the residuals of a call's rows. Raises KeyError if a context is not prepared."""
        return self.ready(call)()

    @torch.inference_mode()
    def ready(self, call: ControlCall) -> Callable[[], Residuals]:
        """Return a function that computes the residuals of a call's rows, in any thread.

        Raises KeyError if a context is not prepared.
        """
        self._num_calls += 1
        self._last_call.update((row.context_id, self._num_calls) for row in call.rows)
        self._evict()
        width = call.width or len(call.rows)
        passes = [self._pass(call, slice(start, start + width), width) for start in range(0, len(call.rows), width)]
        return partial(self._compute, call, passes)

    @torch.inference_mode()
    def _compute(self, call: ControlCall, passes: Sequence[_Pass]) -> Residuals:
        with self._hosted[call.controlnet].lease() as controlnet:
            compute = self._programs.get(call.controlnet, partial(residuals, controlnet))
            parts = [_scaled(compute(*of_pass.inputs), of_pass.scales) for of_pass in passes]
        joined = Residuals.joined(parts).select(slice(len(call.rows)))
        return replace(joined, weights_hash=self.weights[call.controlnet])

    def warm_up(self, controlnet_id: str, size: Size) -> None:
        """Run one call of the shape that most requests have: two rows with prompts of one chunk."""
        with self._hosted[controlnet_id].lease() as controlnet:
            num_channels, embeds = controlnet.config.in_channels, zero_embeds(controlnet)
        image = np.zeros((size.height, size.width, 3), dtype=np.uint8)
        context = ControlContext.of(controlnet_id, image, {"positive": embeds})
        row = ControlRow(
            context_id=context.context_id, role="positive", controlnet_conditioning_scale=1.0, guess_mode=False
        )
        self.prepare(context)
        shape = (2, num_channels, size.latent_height, size.latent_width)
        self.residuals(
            ControlCall(
                controlnet=controlnet_id,
                rows=(row, row),
                model_input=torch.zeros(shape, device=self._placement.device),
                timesteps=torch.zeros(2, device=self._placement.device),
                num_tokens=TOKENS_PER_CHUNK,
                width=None,
            )
        )

    def _pass(self, call: ControlCall, part: slice, width: int) -> _Pass:
        """Return the pass of some rows of a call, padded to `width` rows."""
        rows = _padded(call.rows[part], width)
        model_input = torch.stack(_padded(call.model_input[part].unbind(), width))
        timesteps = torch.stack(_padded(call.timesteps[part].unbind(), width))
        stacked = self._stack(call.controlnet, rows, call.num_tokens)
        inputs = (model_input.to(self._placement.dtype), timesteps, stacked.conditions, stacked.embedding)
        return _Pass(inputs, stacked.scales)

    def _evict(self) -> None:
        oldest = self._num_calls - _EVICTED_AFTER_CALLS
        for context_id in [context_id for context_id, last in self._last_call.items() if last < oldest]:
            del self._prepared[context_id], self._last_call[context_id]
            self._stacked.clear()

    def _stack(self, controlnet_id: str, rows: tuple[ControlRow, ...], num_tokens: int) -> _Stacked:
        """Stack the conditions, the control images' embeddings and the scales of rows."""
        if (rows, num_tokens) not in self._stacked:
            contexts = [self._prepared[row.context_id] for row in rows]
            prompts = [context.prompts[row.role] for context, row in zip(contexts, rows, strict=True)]
            embedding = torch.cat([context.embedding for context in contexts])
            conditions = stack(prompts, [context.size for context in contexts], num_tokens=num_tokens)
            scales = _scales(rows, num_skips=self._num_skips[controlnet_id], like=embedding)
            self._stacked[rows, num_tokens] = _Stacked(conditions, embedding, scales)
        return self._stacked[rows, num_tokens]


def _padded(rows: tuple[T, ...], width: int) -> tuple[T, ...]:
    """Return the rows, followed by copies of the last one up to the width."""
    return rows + rows[-1:] * (width - len(rows))


def _scales(rows: Sequence[ControlRow], *, num_skips: int, like: torch.Tensor) -> torch.Tensor | None:
    if all(row.controlnet_conditioning_scale == 1 and not row.guess_mode for row in rows):
        return None
    scales = [
        scales_of_layers(row.controlnet_conditioning_scale, num_skips=num_skips, guess_mode=row.guess_mode)
        for row in rows
    ]
    return uploaded(torch.stack(scales, dim=1).to(like.dtype), like.device)


def _scaled(residuals: Residuals, scales: torch.Tensor | None) -> Residuals:
    return residuals if scales is None else residuals.scaled(scales)


def _install(name: str, family: FamilyName, controlnet: ControlNetModel) -> None:
    """Prepare a ControlNet for packed rows."""
    config = controlnet.config
    if config.controlnet_conditioning_channel_order != "rgb" or config.global_pool_conditions:
        raise ModelUnavailable(f"ControlNet {name!r} is not one of diffusers' plain ControlNets.")
    try:
        family_of(family).install(controlnet)
    except ValueError as error:
        raise ModelUnavailable(f"ControlNet {name!r}: {error}.") from error
