"""SDXL's two text encoders as one function from texts to embeddings.

A text longer than one chunk's 75 tokens is split into several chunks, which are encoded separately and concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.errors import InvalidParameter
from atelier.families.sdxl.adapters.adapter import WeightedAdapter
from atelier.families.sdxl.adapters.keys import Part
from atelier.families.sdxl.adapters.rows import applied, combined, install_row_changes, stacked
from atelier.models.hashes import weights_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement, load_tokenizers
from atelier.models.sources import text_encoders_source

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

#: Maximum number of 75-token chunks of a prompt. It is limited because the UNet attends to every token in every step.
MAX_CHUNKS = 8

Chunk = list[int]  # 77 token ids: begin, up to 75 tokens of the text, end, padding


class TextEncoders:
    """Both text encoders of one model. Not thread-safe: used from one thread."""

    def __init__(self, entry: ModelEntry, placement: Placement, host: ModelHost | None = None) -> None:
        """Load and warm up the encoders, which belong to `host`, by default one of their own.

        Raises ModelUnavailable if files are missing or corrupt.
        """
        self._tokenizers = load_tokenizers(entry)
        host = host or ModelHost(placement)
        self._encoders = host.add(f"{entry.id}/text_encoders", text_encoders_source(entry, placement))
        self._device = placement.device
        vocabularies = [sorted(tokenizer.get_vocab().items()) for tokenizer in self._tokenizers]
        with self._encoders.lease() as encoders:
            first, second = encoders
            for encoder in encoders:
                install_row_changes(encoder)
            self._modules: Mapping[Part, torch.nn.Module] = {"text_encoder": first, "text_encoder_2": second}
            self.weights_hash = weights_hash(first, second, settings={"vocabularies": vocabularies})
            self.encode([Text("", "")])

    def check_length(self, text: Text) -> None:
        """Raise InvalidParameter if a prompt has more tokens than `MAX_CHUNKS` chunks hold."""
        for prompt, tokenizer in zip((text.prompt, text.prompt_2), self._tokenizers, strict=True):
            num_tokens = len(_token_ids(tokenizer, prompt))
            max_tokens = MAX_CHUNKS * (tokenizer.model_max_length - 2)
            if num_tokens > max_tokens:
                raise InvalidParameter(
                    f"A prompt of {num_tokens} tokens is too long; this server reads {max_tokens}.", param="prompt"
                )

    @property
    def modules(self) -> Mapping[Part, torch.nn.Module]:
        """Both text encoders, by the names that LoRAs have for them; their weights may be elsewhere."""
        return self._modules

    def bring(self) -> None:
        """Bring the weights to the device."""
        self._encoders.bring()

    def unload(self) -> bool:
        """Take the weights out of memory; return whether they are still there, because they are used."""
        return self._encoders.unload()

    @torch.inference_mode()
    def encode(self, texts: Sequence[Text], adapters: Sequence[Sequence[WeightedAdapter]] = ()) -> list[TextEmbeds]:
        """Encode texts in one batch; the embeddings are in the order of the texts.

        `adapters` are the LoRAs of each text with their weights; without them, no text has any.

        `prompt_embeds` are the penultimate hidden states of both encoders, concatenated; `pooled_prompt_embeds` are
        the second encoder's pooled output for the first chunk. Source: Podell et al. 2023, §2.1; diffusers'
        `StableDiffusionXLPipeline.encode_prompt`.
        """
        tokenizer, tokenizer_2 = self._tokenizers
        chunks = [_chunks(tokenizer, text.prompt) for text in texts]
        chunks_2 = [_chunks(tokenizer_2, text.prompt_2) for text in texts]
        for text_chunks, text_chunks_2 in zip(chunks, chunks_2, strict=True):
            missing = len(text_chunks) - len(text_chunks_2)
            text_chunks += _chunks(tokenizer, "") * -missing
            text_chunks_2 += _chunks(tokenizer_2, "") * missing
        num_chunks = [len(text_chunks) for text_chunks in chunks]
        of_chunks = [of_text for of_text, num in zip(adapters, num_chunks, strict=False) for _ in range(num)]
        prompt_embeds, pooled = self._encode_chunks(chunks, chunks_2, of_chunks)
        return [
            TextEmbeds(
                prompt_embeds=text_embeds.flatten(0, 1).numpy(),
                pooled_prompt_embeds=text_pooled[0].numpy(),
                num_tokens=len(_token_ids(tokenizer, text.prompt)),
            )
            for text, text_embeds, text_pooled in zip(
                texts, prompt_embeds.split(num_chunks), pooled.split(num_chunks), strict=True
            )
        ]

    def _encode_chunks(
        self, chunks: list[list[Chunk]], chunks_2: list[list[Chunk]], adapters: Sequence[Sequence[WeightedAdapter]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute hidden states [chunks, 77, 2048] and pooled output [chunks, 1280] of the chunks of all texts.

        `adapters` are the LoRAs of each chunk.
        """
        changes = [
            combined([(adapter.text_encoder, weight) for adapter, weight in of_chunk]) for of_chunk in adapters
        ]
        changes_2 = [
            combined([(adapter.text_encoder_2, weight) for adapter, weight in of_chunk]) for of_chunk in adapters
        ]
        with self._encoders.lease() as (encoder, encoder_2):
            with applied(stacked(changes)):
                first = encoder(self._ids(chunks), output_hidden_states=True)
            with applied(stacked(changes_2)):
                second = encoder_2(self._ids(chunks_2), output_hidden_states=True)
        prompt_embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return prompt_embeds.float().cpu(), second.text_embeds.float().cpu()

    def _ids(self, chunks: list[list[Chunk]]) -> torch.Tensor:
        """Return the token ids of the chunks of all texts as one tensor, [chunks, 77]."""
        return torch.tensor([chunk for text_chunks in chunks for chunk in text_chunks], device=self._device)


def load_text_encoders(entry: ModelEntry, placement: Placement, host: ModelHost) -> TextEncoders:
    """Load a model's text encoders into `host`. Raises ModelUnavailable if files are missing or corrupt."""
    return TextEncoders(entry, placement, host)


def _token_ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def _chunks(tokenizer: CLIPTokenizer, prompt: str) -> list[Chunk]:
    """Split a prompt into chunks of 77 token ids; an empty prompt has one chunk."""
    ids, length = _token_ids(tokenizer, prompt), tokenizer.model_max_length
    pieces = [ids[start : start + length - 2] for start in range(0, max(1, len(ids)), length - 2)]
    framed = [[tokenizer.bos_token_id, *piece, tokenizer.eos_token_id] for piece in pieces]
    return [chunk + [tokenizer.pad_token_id] * (length - len(chunk)) for chunk in framed]
