"""Prompts as chunks of token ids that a CLIP text encoder reads.

A text longer than one chunk's 75 tokens is split into several chunks, which are encoded separately and concatenated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from atelier.core.errors import InvalidParameter

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

#: Maximum number of 75-token chunks of a prompt. It is limited because the UNet attends to every token in every step.
MAX_CHUNKS = 8

Chunk = list[int]  # 77 token ids: begin, up to 75 tokens of the text, end, padding


def check_length(tokenizer: CLIPTokenizer, prompt: str) -> None:
    """Raise InvalidParameter if a prompt has more tokens than `MAX_CHUNKS` chunks hold."""
    num_tokens = len(token_ids(tokenizer, prompt))
    max_tokens = MAX_CHUNKS * (tokenizer.model_max_length - 2)
    if num_tokens > max_tokens:
        raise InvalidParameter(
            f"A prompt of {num_tokens} tokens is too long; this server reads {max_tokens}.", param="prompt"
        )


def token_ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    """Return a prompt's token ids without begin, end and padding."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def chunks_of(tokenizer: CLIPTokenizer, prompt: str) -> list[Chunk]:
    """Split a prompt into chunks of 77 token ids; an empty prompt has one chunk."""
    ids, length = token_ids(tokenizer, prompt), tokenizer.model_max_length
    pieces = [ids[start : start + length - 2] for start in range(0, max(1, len(ids)), length - 2)]
    framed = [[tokenizer.bos_token_id, *piece, tokenizer.eos_token_id] for piece in pieces]
    return [chunk + [tokenizer.pad_token_id] * (length - len(chunk)) for chunk in framed]


def joined(chunks: Iterable[list[Chunk]]) -> list[Chunk]:
    """Return the chunks of all texts, one text after the other."""
    return [chunk for of_text in chunks for chunk in of_text]
