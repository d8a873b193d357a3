"""Stable Diffusion 1.5's text encoder as a function from texts to embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
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
from atelier.models.sources import text_encoder_source


class TextEncoders:
    """The text encoder of one model, CLIP ViT-L. Not thread-safe: used from one thread."""

    def __init__(self, entry: ModelEntry, placement: Placement, host: ModelHost | None = None) -> None:
        """Load and warm up the encoder, which belongs to `host`, by default one of its own.

        Raises ModelUnavailable if files are missing or corrupt.
        """
        [self._tokenizer] = load_tokenizers(entry)
        host = host or ModelHost(placement)
        self._encoder = host.add(f"{entry.id}/text_encoders", text_encoder_source(entry, placement))
        self._device = placement.device
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        with self._encoder.lease() as encoder:
            install_row_changes(encoder)
            self._modules: Mapping[Part, torch.nn.Module] = {"text_encoder": encoder}
            self.weights_hash = weights_hash(encoder, settings={"vocabulary": vocabulary})
            self.encode([Text("", "")])

    def check_length(self, text: Text) -> None:
        """Raise InvalidParameter if the prompt has more tokens than `MAX_CHUNKS` chunks hold."""
        check_length(self._tokenizer, text.prompt)

    @property
    def modules(self) -> Mapping[Part, torch.nn.Module]:
        """The text encoder, by the name that LoRAs have for it; its weights may be elsewhere."""
        return self._modules

    def bring(self) -> None:
        """Bring the weights to the device."""
        self._encoder.bring()

    def unload(self) -> bool:
        """Take the weights out of memory; return whether they are still there, because they are used."""
        return self._encoder.unload()

    @torch.inference_mode()
    def encode(self, texts: Sequence[Text], adapters: Sequence[Sequence[WeightedAdapter]] = ()) -> list[TextEmbeds]:
        """Encode texts in one batch; the embeddings are in the order of the texts.

        `adapters` are the LoRAs of each text with their weights; without them, no text has any.

        `prompt_embeds` are the encoder's last hidden states behind its final norm; there is no pooled output. Source:
        diffusers' `StableDiffusionPipeline.encode_prompt`.
        """
        chunks = [chunks_of(self._tokenizer, text.prompt) for text in texts]
        num_chunks = [len(text_chunks) for text_chunks in chunks]
        of_chunks = [of_text for of_text, num in zip(adapters, num_chunks, strict=False) for _ in range(num)]
        prompt_embeds = self._encode_chunks(joined(chunks), of_chunks)
        return [
            TextEmbeds(
                prompt_embeds=text_embeds.flatten(0, 1).numpy(),
                pooled_prompt_embeds=np.zeros(0, dtype=np.float32),
                num_tokens=len(token_ids(self._tokenizer, text.prompt)),
            )
            for text, text_embeds in zip(texts, prompt_embeds.split(num_chunks), strict=True)
        ]

    def _encode_chunks(self, chunks: list[Chunk], adapters: Sequence[Sequence[WeightedAdapter]]) -> torch.Tensor:
        """Compute hidden states [chunks, 77, 768]; `adapters` are the LoRAs of each chunk."""
        changes = [
            combined([(adapter.text_encoder, weight) for adapter, weight in of_chunk]) for of_chunk in adapters
        ]
        with self._encoder.lease() as encoder, applied(stacked(changes)):
            encoded = encoder(torch.tensor(chunks, device=self._device))
        prompt_embeds: torch.Tensor = encoded.last_hidden_state
        return prompt_embeds.float().cpu()


def load_text_encoders(entry: ModelEntry, placement: Placement, host: ModelHost) -> TextEncoders:
    """Load a model's text encoder into `host`. Raises ModelUnavailable if files are missing or corrupt."""
    return TextEncoders(entry, placement, host)
