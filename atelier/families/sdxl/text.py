"""SDXL's two text encoders as one function from texts to embeds.

A text longer than the 75 tokens of one chunk becomes several chunks, encoded one by one and joined.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPTokenizer

from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.errors import InvalidParameter
from atelier.models.hashes import weights_hash
from atelier.models.loading import Placement, load_text_encoders

#: Longer texts are refused: the UNet attends to every token in every step.
MAX_CHUNKS = 8

Chunk = list[int]  # 77 token ids: begin, up to 75 of the text, end, padding


class TextEncoders:
    """Both encoders of one model. Not thread-safe: used from one thread."""

    def __init__(self, entry: ModelEntry, placement: Placement) -> None:
        self._modules = load_text_encoders(entry, placement)
        self._device = placement.device
        vocabularies = [sorted(tokenizer.get_vocab().items()) for tokenizer in self._modules.tokenizers]
        self.weights_hash = weights_hash(
            self._modules.encoder, self._modules.encoder_2, settings={"vocabularies": vocabularies}
        )
        self.encode([Text("", "")])

    def check_length(self, text: Text) -> None:
        """Raises InvalidParameter if a prompt has more tokens than `MAX_CHUNKS` chunks hold."""
        for prompt, tokenizer in zip((text.prompt, text.prompt_2), self._modules.tokenizers, strict=True):
            num_tokens = len(_token_ids(tokenizer, prompt))
            max_tokens = MAX_CHUNKS * (tokenizer.model_max_length - 2)
            if num_tokens > max_tokens:
                raise InvalidParameter(
                    f"A prompt of {num_tokens} tokens is too long; this server reads {max_tokens}.", param="prompt"
                )

    @torch.inference_mode()
    def encode(self, texts: Sequence[Text]) -> list[TextEmbeds]:
        """Penultimate hidden states of both encoders, and the second's pooled output of the first chunk.

        Source: Podell et al. 2023, §2.1; diffusers `StableDiffusionXLPipeline.encode_prompt`.
        """
        modules = self._modules
        tokenizer, tokenizer_2 = modules.tokenizers
        chunks = [_chunks(tokenizer, text.prompt) for text in texts]
        chunks_2 = [_chunks(tokenizer_2, text.prompt_2) for text in texts]
        for first_of_text, second_of_text in zip(chunks, chunks_2, strict=True):
            missing = len(first_of_text) - len(second_of_text)
            first_of_text += _chunks(tokenizer, "") * -missing
            second_of_text += _chunks(tokenizer_2, "") * missing
        first = modules.encoder(self._ids(chunks), output_hidden_states=True)
        second = modules.encoder_2(self._ids(chunks_2), output_hidden_states=True)
        prompt_embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1).float().cpu()
        pooled = second.text_embeds.float().cpu()
        num_chunks = [len(of_text) for of_text in chunks]
        return [
            TextEmbeds(
                prompt_embeds=embeds.flatten(0, 1).numpy(),
                pooled_prompt_embeds=pools[0].numpy(),
                num_tokens=len(_token_ids(tokenizer, text.prompt)),
            )
            for text, embeds, pools in zip(
                texts, prompt_embeds.split(num_chunks), pooled.split(num_chunks), strict=True
            )
        ]

    def _ids(self, chunks: list[list[Chunk]]) -> torch.Tensor:
        """All chunks of all texts, [chunks, 77]."""
        return torch.tensor([chunk for of_text in chunks for chunk in of_text], device=self._device)


def _token_ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def _chunks(tokenizer: CLIPTokenizer, prompt: str) -> list[Chunk]:
    """At least one chunk, also of an empty prompt."""
    ids, length = _token_ids(tokenizer, prompt), tokenizer.model_max_length
    pieces = [ids[start : start + length - 2] for start in range(0, max(1, len(ids)), length - 2)]
    framed = [[tokenizer.bos_token_id, *piece, tokenizer.eos_token_id] for piece in pieces]
    return [chunk + [tokenizer.pad_token_id] * (length - len(chunk)) for chunk in framed]
