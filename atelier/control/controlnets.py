"""The ControlNets of a replica: contexts they were told, and residuals for packed rows of any of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from diffusers import ControlNetModel

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import PIXELS_PER_LATENT, ControlNetEntry, Size
from atelier.control.calls import ContextId, ControlCall, ControlContext, ControlRow
from atelier.control.residuals import Residuals, embed_control_image, residuals, scales_of_layers
from atelier.core.conditioning import TOKENS_PER_CHUNK, TextEmbeds
from atelier.core.errors import ModelUnavailable
from atelier.families.sdxl import attention
from atelier.families.sdxl.conditions import Conditions, PromptConditions, stack
from atelier.models.hashes import weights_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement, load_controlnet

#: A context (about 25 MB at SDXL's size) is forgotten when so many calls did without it, and can be told again.
_FORGOTTEN_AFTER_CALLS = 16
#: Passes whose rows are kept packed from step to step: a batch's, through two ControlNets.
_MAX_PACKED = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Opened:
    #: [1, channels, h, w]
    embedding: torch.Tensor
    prompts: tuple[PromptConditions, ...]
    #: (height, width) of the picture
    size: tuple[int, int]


def load_controlnets(catalogue: Catalogue, placement: Placement) -> ControlNets:
    """All of the catalogue's, warm at the sizes their base models draw by default. Raises ModelUnavailable."""
    controlnets = ControlNets(catalogue.controlnets, placement)
    for entry in catalogue.controlnets:
        controlnets.warm_up(entry.id, catalogue.model(entry.base).defaults.size)
    return controlnets


class ControlNets:
    """Not thread-safe: made and used in one thread."""

    def __init__(self, entries: Sequence[ControlNetEntry], placement: Placement) -> None:
        """Raises ModelUnavailable if files are missing or one is no ControlNet of SDXL's plain kind."""
        controlnets = {entry.id: _load(entry, placement) for entry in entries}
        self._weights_hashes = {name: weights_hash(controlnet) for name, controlnet in controlnets.items()}
        self._host = ModelHost(controlnets)
        self._placement = placement
        self._opened: dict[ContextId, _Opened] = {}
        #: By context the number of the last call that needed it.
        self._last_call: dict[ContextId, int] = {}
        self._num_calls = 0
        self._packed: LRUCache[tuple[tuple[ControlRow, ...], int], tuple[Conditions, torch.Tensor]] = LRUCache(
            _MAX_PACKED
        )

    def unknown(self, rows: Iterable[ControlRow]) -> tuple[ContextId, ...]:
        """The contexts of the rows that have not been told, or are forgotten."""
        return tuple(dict.fromkeys(row.context_id for row in rows if row.context_id not in self._opened))

    @torch.inference_mode()
    def open(self, context: ControlContext) -> None:
        """Embed the control image and prepare the prompts, once for all steps."""
        image = torch.tensor(context.control_image).permute(2, 0, 1)[None]
        image = image.to(self._placement.device, self._placement.dtype) / 255
        with self._host.acquire(context.controlnet) as controlnet:
            self._last_call[context.context_id] = self._num_calls
            self._opened[context.context_id] = _Opened(
                embed_control_image(controlnet, image),
                tuple(attention.prompt_conditions(controlnet, text, self._placement) for text in context.texts),
                context.control_image.shape[:2],
            )

    @torch.inference_mode()
    def residuals(self, call: ControlCall) -> Residuals:
        """Raises KeyError if a context was not opened."""
        self._num_calls += 1
        self._last_call.update((row.context_id, self._num_calls) for row in call.rows)
        self._forget()
        width, num_rows = call.width or len(call.rows), len(call.rows)
        passes = []
        with self._host.acquire(call.controlnet) as controlnet:
            for start in range(0, num_rows, width):
                of_pass = slice(start, start + width)
                rows = _filled(call.rows[of_pass], width)
                model_input = torch.stack(_filled(call.model_input[of_pass].unbind(), width))
                timesteps = torch.stack(_filled(call.timesteps[of_pass].unbind(), width))
                passes.append(
                    residuals(
                        controlnet,
                        model_input.to(self._placement.dtype),
                        timesteps,
                        *self._pack(rows, call.num_tokens),
                        _scales(controlnet, rows, like=model_input),
                    )
                )
        made = Residuals.joined(passes).select(slice(num_rows))
        return replace(made, weights_hash=self._weights_hashes[call.controlnet])

    def warm_up(self, controlnet_id: str, size: Size) -> None:
        """One call of the shape that most requests have: two rows of one text."""
        with self._host.acquire(controlnet_id) as controlnet:
            config = controlnet.config
        pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        text = TextEmbeds(
            prompt_embeds=np.zeros((TOKENS_PER_CHUNK, config.cross_attention_dim), dtype=np.float32),
            pooled_prompt_embeds=np.zeros(pooled_width, dtype=np.float32),
        )
        context = ControlContext.of(controlnet_id, np.zeros((size.height, size.width, 3), dtype=np.uint8), [text])
        self.open(context)
        shape = (2, config.in_channels, size.height // PIXELS_PER_LATENT, size.width // PIXELS_PER_LATENT)
        self.residuals(
            ControlCall(
                controlnet=controlnet_id,
                rows=(ControlRow(context.context_id, 0, 1.0, False),) * 2,
                model_input=torch.zeros(shape, device=self._placement.device),
                timesteps=torch.zeros(2, device=self._placement.device),
                num_tokens=TOKENS_PER_CHUNK,
                width=None,
            )
        )

    def _forget(self) -> None:
        oldest = self._num_calls - _FORGOTTEN_AFTER_CALLS
        for context_id in [context_id for context_id, last in self._last_call.items() if last < oldest]:
            del self._opened[context_id], self._last_call[context_id]
            self._packed.clear()

    def _pack(self, rows: tuple[ControlRow, ...], num_tokens: int) -> tuple[Conditions, torch.Tensor]:
        if (rows, num_tokens) not in self._packed:
            opened = [self._opened[row.context_id] for row in rows]
            prompts = [context.prompts[row.text] for context, row in zip(opened, rows, strict=True)]
            embedding = torch.cat([context.embedding for context in opened])
            sizes = [context.size for context in opened]
            self._packed[rows, num_tokens] = stack(prompts, sizes, num_tokens=num_tokens), embedding
        return self._packed[rows, num_tokens]


def _filled(rows: tuple[T, ...], width: int) -> tuple[T, ...]:
    """With copies of the last one up to the width."""
    return rows + rows[-1:] * (width - len(rows))


def _scales(controlnet: ControlNetModel, rows: Sequence[ControlRow], like: torch.Tensor) -> torch.Tensor | None:
    """[skips + 1, rows], None if all are one."""
    if all(row.controlnet_conditioning_scale == 1 and not row.guess_mode for row in rows):
        return None
    num_skips = len(controlnet.controlnet_down_blocks)
    of_rows = [
        scales_of_layers(row.controlnet_conditioning_scale, num_skips=num_skips, guess_mode=row.guess_mode)
        for row in rows
    ]
    return torch.stack(of_rows, dim=1).to(like)


def _load(entry: ControlNetEntry, placement: Placement) -> ControlNetModel:
    controlnet = load_controlnet(entry, placement)
    config = controlnet.config
    if (
        config.addition_embed_type != "text_time"
        or config.controlnet_conditioning_channel_order != "rgb"
        or config.global_pool_conditions
    ):
        raise ModelUnavailable(f"ControlNet {entry.id!r} is not of SDXL's plain kind.")
    try:
        attention.install(controlnet)
    except ValueError as error:
        raise ModelUnavailable(f"ControlNet {entry.id!r}: {error}.") from error
    return controlnet.to(memory_format=torch.channels_last)
