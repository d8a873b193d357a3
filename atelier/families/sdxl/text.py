"""SDXL's two text encoders as one function from texts to embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Text, TextEmbeds
from atelier.families.chunks import Chunk, check_length, chunks_of, joined, token_ids
from atelier.families.unet.adapters.adapter import WeightedAdapter
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.rows import applied, combined, install_row_changes, stacked
from atelier.models.hashes import weights_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement, load_tokenizers
from atelier.models.sources import text_encoders_source


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
            check_length(tokenizer, prompt)

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
        chunks = [chunks_of(tokenizer, text.prompt) for text in texts]
        chunks_2 = [chunks_of(tokenizer_2, text.prompt_2) for text in texts]
        for text_chunks, text_chunks_2 in zip(chunks, chunks_2, strict=True):
            missing = len(text_chunks) - len(text_chunks_2)
            text_chunks += chunks_of(tokenizer, "") * -missing
            text_chunks_2 += chunks_of(tokenizer_2, "") * missing
        num_chunks = [len(text_chunks) for text_chunks in chunks]
        of_chunks = [of_text for of_text, num in zip(adapters, num_chunks, strict=False) for _ in range(num)]
        prompt_embeds, pooled = self._encode_chunks(chunks, chunks_2, of_chunks)
        return [
            TextEmbeds(
                prompt_embeds=text_embeds.flatten(0, 1).numpy(),
                pooled_prompt_embeds=text_pooled[0].numpy(),
                num_tokens=len(token_ids(tokenizer, text.prompt)),
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
        return torch.tensor(joined(chunks), device=self._device)


def load_text_encoders(entry: ModelEntry, placement: Placement, host: ModelHost) -> TextEncoders:
    """Load a model's text encoders into `host`. Raises ModelUnavailable if files are missing or corrupt."""
    return TextEncoders(entry, placement, host)
