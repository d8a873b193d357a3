from __future__ import annotations

import pytest

from atelier.prompts.trigger_words import with_trigger_words


@pytest.mark.parametrize(
    ("prompt", "words", "expected", "added"),
    [
        ("a circle", ["neon style"], "a circle, neon style", ("neon style",)),
        ("a circle, ", ["neon"], "a circle, neon", ("neon",)),
        ("a circle", ["neon", "glow"], "a circle, neon, glow", ("neon", "glow")),
        ("a circle", ["glow", "glow"], "a circle, glow", ("glow",)),
        ("", ["neon"], "neon", ("neon",)),
        (" ", ["neon", "glow"], "neon, glow", ("neon", "glow")),
        ("a circle", [], "a circle", ()),
    ],
)
def test_missing_words_are_appended(prompt: str, words: list[str], expected: str, added: tuple[str, ...]) -> None:
    assert with_trigger_words(prompt, words) == (expected, added)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a neon circle ", "neon"),
        ("NEON\n style, a circle", "neon style"),
        ("(neon:1.2) circle", "Neon"),
        ("a circle (x:1)", "(x:1)"),
        ("НЕОН", "неон"),
    ],
)
def test_words_that_are_there_leave_the_prompt_as_it_is(prompt: str, word: str) -> None:
    assert with_trigger_words(prompt, [word]) == (prompt, ())


@pytest.mark.parametrize("prompt", ["neonlight", "a xneon", "neon, style", "neo n", "neon_1"])
def test_a_part_of_a_word_is_not_the_word(prompt: str) -> None:
    for word in ("neon style", "neon"):
        expected = prompt if (prompt, word) == ("neon, style", "neon") else f"{prompt}, {word}"
        assert with_trigger_words(prompt, [word])[0] == expected


@pytest.mark.parametrize("words", [["neon", "neon style"], ["neon style", "neon"], ["a.b", "(c)", "d,", "-e"]])
def test_words_are_added_once(words: list[str]) -> None:
    prompt, added = with_trigger_words("a circle", words)
    assert added
    assert with_trigger_words(prompt, words) == (prompt, ())
