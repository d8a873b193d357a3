from __future__ import annotations

from random import Random

from transformers import CLIPTokenizer

from zoo.captions import random_wording
from zoo.scenes import random_description
from zoo.tiny_sdxl import FOLDER
from zoo.tokenizer import new_tokenizer


def test_every_caption_word_is_one_token() -> None:
    tokenizer, random = new_tokenizer(pad_token="!"), Random(1)
    for _ in range(100):
        caption = random_wording(random_description(random, num_things=2), random)
        assert len(tokenizer.tokenize(caption)) == len(caption.replace(",", " ,").split())


def test_decoding_restores_any_tokenised_text() -> None:
    tokenizer = new_tokenizer(pad_token="!")
    for text in ("naïve 日本 🎨", "\x00\x7f", "Ω≈ç√"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(" ", "")


def test_committed_tokenizer_equals_a_newly_trained_one() -> None:
    fresh = new_tokenizer(pad_token="!")
    committed = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer_2")
    assert committed.get_vocab() == fresh.get_vocab()
    assert committed.pad_token_id == fresh.pad_token_id == 0
