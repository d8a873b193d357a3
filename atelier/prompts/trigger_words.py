"""Trigger words: the words that a LoRA was trained with, which a prompt must have for the LoRA to act fully."""

from __future__ import annotations

import re
from collections.abc import Iterable


def with_trigger_words(prompt: str, words: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Append those words that the prompt lacks, separated by commas; returns the prompt and the added words.

    A word may consist of several, such as "neon style". It is found as whole words in any case and with any white
    space. A prompt that has been given its words is given none again.
    """
    added = []
    for word in words:
        if not _has(prompt, word):
            before = prompt.rstrip().rstrip(",")
            prompt = f"{before}, {word}" if before.strip() else word
            added.append(word)
    return prompt, tuple(added)


def _has(prompt: str, word: str) -> bool:
    pattern = r"\s+".join(map(re.escape, word.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", prompt, re.IGNORECASE) is not None
