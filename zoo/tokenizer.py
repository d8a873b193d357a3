"""A CLIP tokenizer for texts of up to 77 tokens, whose vocabulary is trained on the zoo's captions.

All 256 bytes are in the vocabulary, alone and at the end of a word, so any UTF-8 text can be tokenised.
"""

from __future__ import annotations

import json
from random import Random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from zoo.captions import random_wording
from zoo.scenes import random_description

MAX_TOKENS = 77

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_NUM_CAPTIONS = 4000
_MAX_MERGES = 400


def new_tokenizer(*, pad_token: str) -> CLIPTokenizer:
    """Train a tokenizer. SDXL pads its first tokenizer with the end token and its second with "!" (id 0)."""
    merges = _learn_merges()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + _WORD_END for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate([*tokens, _BEGIN, _END])}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=_BEGIN,
        eos_token=_END,
        unk_token=_END,
        pad_token=pad_token,
        model_max_length=MAX_TOKENS,
    )


def _learn_merges() -> list[tuple[str, str]]:
    random = Random("captions")
    captions = [
        random_wording(random_description(random, num_things=random.choice((1, 2))), random)
        for _ in range(_NUM_CAPTIONS)
    ]
    learner = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=_MAX_MERGES, end_of_word_suffix=_WORD_END, min_frequency=5, show_progress=False
        ),
    )
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
