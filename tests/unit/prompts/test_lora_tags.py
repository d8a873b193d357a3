from __future__ import annotations

import pytest

from atelier.core.errors import InvalidParameter, UnsupportedValue
from atelier.prompts.lora_tags import LoraTag, has_lora_tags, take_lora_tags, write_lora_tag


def _taken(prompt: str) -> tuple[str, list[tuple[str, float | None]]]:
    rest, tags = take_lora_tags(prompt, param="prompt")
    return rest, [(tag.name, tag.weight) for tag in tags]


@pytest.mark.parametrize(
    ("tag", "name", "weight"),
    [
        ("<lora:neon>", "neon", None),
        ("<lora:neon:0.8>", "neon", 0.8),
        ("<lora:neon:.5>", "neon", 0.5),
        ("<lora:neon:1.>", "neon", 1),
        ("<lora:neon:-2>", "neon", -2),
        ("<lora:neon:+4>", "neon", 4),
        ("<lora:neon:-4>", "neon", -4),
        ("<lora:neon:0>", "neon", 0),
        ("<LoRA: Add Detail (XL) v1.0 : 0.8 >", "Add Detail (XL) v1.0", 0.8),
        ("<lora:неон:0.8>", "неон", 0.8),
        (f"<lora:{'n' * 200}>", "n" * 200, None),
    ],
)
def test_a_tag_names_a_lora_and_its_weight(tag: str, name: str, weight: float | None) -> None:
    assert _taken(f"a circle {tag}") == ("a circle", [(name, weight)])


@pytest.mark.parametrize(
    ("prompt", "rest"),
    [
        ("<lora:x:1>", ""),
        (" , <lora:x>,\n<lora:y>, ", ""),
        ("<lora:x> a circle", "a circle"),
        ("<lora:x>, a circle", "a circle"),
        ("a circle, <lora:x>", "a circle"),
        ("a circle,<lora:x>, red", "a circle, red"),
        ("a circle <lora:x> on white", "a circle on white"),
        ("a circle, <lora:x> <lora:y> on white", "a circle, on white"),
        ("a circle <lora:x>\n,<lora:y> on white", "a circle, on white"),
        ("a<lora:x>circle", "a circle"),
        ("a circle <lora:x> on white, red", "a circle on white, red"),
        ("a <lora:x> circle,, <lora:y> on white", "a circle, on white"),
        ("  a  circle <lora:x> on  white ", "  a  circle on  white"),
    ],
)
def test_one_separator_is_left_where_a_tag_was(prompt: str, rest: str) -> None:
    assert _taken(prompt)[0] == rest


@pytest.mark.parametrize(
    "prompt", ["", "  a <red> circle,, ", "a <lorax:1> b", "lora:x", "1 < 2 > 1", "<hypernet:x:1>"]
)
def test_a_prompt_without_tags_stays_as_it_is(prompt: str) -> None:
    assert not has_lora_tags(prompt)
    assert _taken(prompt) == (prompt, [])


def test_tags_keep_their_order() -> None:
    prompt = "<lora:b:2> a <lora:a> b <lora:c:-1>"
    assert has_lora_tags(prompt)
    assert _taken(prompt) == ("a b", [("b", 2), ("a", None), ("c", -1)])


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:secret",
        "<lora:>",
        "<lora: :1>",
        "<lora>",
        "<lora secret>",
        "< lora:secret>",
        "<lora:secret:>",
        "<lora:secret:strong>",
        "<lora:secret:1e1>",
        "<lora:secret:nan>",
        "<lora:secret:inf>",
        "<lora:secret:١>",
        "<lora:secret:1_0>",
        "<lora:secret<lora:b>>",
        f"<lora:{'s' * 201}>",
    ],
)
def test_a_broken_tag_is_refused_with_its_place_and_the_right_form(tag: str) -> None:
    assert has_lora_tags(tag)
    with pytest.raises(InvalidParameter) as caught:
        take_lora_tags(f"a circle, {tag}", param="prompt_2")
    assert (caught.value.param, caught.value.code) == ("prompt_2", "invalid_value")
    assert str(caught.value) == (
        "prompt_2: the LoRA tag at character 11 cannot be read; write <lora:NAME> or <lora:NAME:WEIGHT>, such as "
        "<lora:NAME:0.8>."
    )


@pytest.mark.parametrize("tag", ["<lora:x:1:0.5>", "<lora:x:1:0.5:8>", "<lora:x:te=1>", "<lora:x:unet=1:te=0>"])
def test_a_weight_for_the_text_encoders_is_not_supported(tag: str) -> None:
    with pytest.raises(UnsupportedValue, match="prompt: the LoRA tag at character 3 has several weights") as caught:
        take_lora_tags(f"a {tag}", param="prompt")
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("weight", ["4.01", "-4.01", "999999999"])
def test_a_weight_out_of_range_is_refused_with_the_range(weight: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        take_lora_tags(f"a <lora:x:{weight}>", param="prompt")
    assert caught.value.param == "prompt"
    place = "prompt: the weight of the LoRA tag at character 3"
    assert str(caught.value) == f"{place} must be within −4 … 4; got {float(weight):g}."


@pytest.mark.parametrize(
    ("weight", "text"),
    [(1.0, "1"), (0.8, "0.8"), (-2.5, "-2.5"), (4, "4"), (10 / 3, "3.333333"), (1e-7, "0"), (0.1 + 0.2, "0.3")],
)
def test_a_written_tag_is_read_again(weight: float, text: str) -> None:
    tag = write_lora_tag("my neon", weight)
    assert tag == f"<lora:my neon:{text}>"
    assert take_lora_tags(tag, param="prompt") == ("", (LoraTag("my neon", float(text)),))


def test_a_prompt_of_nothing_but_tags_is_read_to_its_end() -> None:
    rest, tags = take_lora_tags("<lora:x> ," * 3200, param="prompt")
    assert (rest, len(tags)) == ("", 3200)
