from __future__ import annotations

import pytest

from atelier.core.errors import InvalidParameter, NotSupported, UnknownParameter
from atelier.core.params import GenerateParams, UpscaleStep, parse
from atelier.core.params.parsing import refuse_unless_harmless


def test_null_means_absent() -> None:
    assert parse(GenerateParams, {"prompt": "x", "n": None, "strength": None}).n == 1


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(InvalidParameter, match="prompt is required") as caught:
        parse(GenerateParams, {})
    assert caught.value.param == "prompt"


def test_an_unknown_field_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(UnknownParameter, match="guidance_scale") as caught:
        parse(GenerateParams, {"prompt": "x", "guidence": 5})
    assert caught.value.param == "guidence"


@pytest.mark.parametrize(
    ("fields", "param", "known", "elsewhere"),
    [
        ({"hires": {"zoom": 2}}, "hires.zoom", "strength", "guess_mode"),
        ({"upscale": {"zoom": 2}}, "upscale.zoom", "scale", "strength"),
        ({"controls": [{"kind": "canny", "image": b"", "zoom": 2}]}, "controls[0].zoom", "guess_mode", "hires"),
        ({"zoom": 2}, "zoom", "num_inference_steps", "guess_mode"),
    ],
)
def test_an_unknown_field_lists_the_known_ones_of_its_place(
    fields: dict[str, object], param: str, known: str, elsewhere: str
) -> None:
    with pytest.raises(UnknownParameter) as caught:
        parse(GenerateParams, {"prompt": "x", **fields})
    assert caught.value.param == param
    assert known in str(caught.value)
    assert elsewhere not in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("clip_skip", 1), ("loras", [{"model": "x"}]), ("priority", "batch")])
def test_a_field_that_is_not_built_is_refused_as_such(field: str, value: object) -> None:
    with pytest.raises(NotSupported) as caught:
        parse(GenerateParams, {"prompt": "x", field: value})
    assert (caught.value.param, caught.value.status) == (field, 501)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampler", "euler"),
        ("reproducibility", "fast"),
        ("priority", "standard"),
        ("clip_skip", 0),
        ("loras", []),
        ("ip_adapter", []),
    ],
)
def test_what_happens_anyway_may_be_asked_for(field: str, value: object) -> None:
    assert parse(GenerateParams, {"prompt": "x", field: value}).prompt == "x"


def test_only_harmless_values_pass() -> None:
    refuse_unless_harmless("stream", False, (False,))
    with pytest.raises(NotSupported, match="stream is not supported") as caught:
        refuse_unless_harmless("stream", True, (False,))
    assert caught.value.param == "stream"


@pytest.mark.parametrize("field", ["prompt", "prompt_2", "negative_prompt", "negative_prompt_2"])
@pytest.mark.parametrize("text", ["s" * 32_001, "secret \ud800"])
def test_a_bad_prompt_is_refused_by_name_with_its_length(field: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(GenerateParams, {"prompt": "x", field: text})
    assert caught.value.param == field
    assert f"got {len(text)} characters" in str(caught.value)
    assert text[:6] not in str(caught.value)
    assert text[:6] not in str(caught.value.__cause__)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_of_another_type_is_not_shown_either(field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(GenerateParams, {"prompt": "x", field: ["secret"]})
    assert caught.value.param == field
    assert "got list" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_long_value_or_name_is_shortened_to_80_characters() -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(GenerateParams, {"prompt": "x", "sampler": "k" * 300})
    assert str(caught.value).endswith(f"; got '{'k' * 76}....")
    with pytest.raises(UnknownParameter) as unknown:
        parse(GenerateParams, {"prompt": "x", "n" * 300: 1})
    assert unknown.value.param == f"{'n' * 77}..."


def test_a_value_of_80_characters_is_shown_whole() -> None:
    with pytest.raises(InvalidParameter, match=f"got '{'k' * 78}'"):
        parse(GenerateParams, {"prompt": "x", "sampler": "k" * 78})


def test_params_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        UpscaleStep().scale = 2  # type: ignore[misc]
