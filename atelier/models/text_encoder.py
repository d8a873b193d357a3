"""SDXL's two text encoders as one function from texts to embeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPTokenizer

from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.errors import InvalidParameter
from atelier.models.loading import Placement, load_text_encoders


class TextEncoders:
    """Both encoders of one model. Not thread-safe: used from one thread."""

    def __init__(self, entry: ModelEntry, placement: Placement) -> None:
        self._modules = load_text_encoders(entry, placement)
        self._device = placement.device
        self.encode([Text("", "")])

    def check_length(self, text: Text) -> None:
        """Raises InvalidParameter if a prompt has more tokens than one chunk of the encoders holds."""
        for prompt, tokenizer in zip((text.prompt, text.prompt_2), self._modules.tokenizers, strict=True):
            num_tokens = len(tokenizer(prompt, truncation=False, verbose=False).input_ids) - 2
            max_tokens = tokenizer.model_max_length - 2
            if num_tokens > max_tokens:
                raise InvalidParameter(
                    f"A prompt of {num_tokens} tokens is too long; this server reads {max_tokens}.",
                    param="prompt",
                )

    @torch.inference_mode()
    def encode(self, texts: Sequence[Text]) -> list[TextEmbeds]:
        """Penultimate hidden states of both encoders, and the pooled output of the second.

        Source: Podell et al. 2023, §2.1; diffusers `StableDiffusionXLPipeline.encode_prompt`.
        """
        modules = self._modules
        ids = self._ids(modules.tokenizers[0], [text.prompt for text in texts])
        ids_2 = self._ids(modules.tokenizers[1], [text.prompt_2 for text in texts])
        first = modules.encoder(ids, output_hidden_states=True)
        second = modules.encoder_2(ids_2, output_hidden_states=True)
        prompt_embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return [
            TextEmbeds(prompt_embeds=embeds.numpy(), pooled_prompt_embeds=pooled.numpy())
            for embeds, pooled in zip(prompt_embeds.float().cpu(), second.text_embeds.float().cpu(), strict=True)
        ]

    def _ids(self, tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
        """Token ids [texts, 77], padded."""
        padded = tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        ids: torch.Tensor = padded.input_ids
        return ids.to(self._device)
