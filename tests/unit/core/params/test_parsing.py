from __future__ import annotations

import tracemalloc

import pytest

from atelier.core.errors import InvalidParameter, InvalidRequest, NotSupported, UnknownParameter
from atelier.core.params import GenerateParams, UpscaleParams, UpscaleStep, parse
from atelier.core.params.parsing import NotBuilt, refuse_unless_harmless


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("steps", "num_inference_steps"),
        ("cfg_scale", "guidance_scale"),
        ("width", "size"),
        ("height", "size"),
        ("denoising_strength", "strength"),
        ("negative_promt", "negative_prompt"),
    ],
)
def test_an_unknown_field_is_answered_with_the_one_that_is_meant(name: str, meant: str) -> None:
    with pytest.raises(UnknownParameter, match=f"Unknown field '{name}'. Did you mean '{meant}'?"):
        parse(GenerateParams, {"prompt": "x", name: 1})


def test_a_hint_names_only_fields_that_exist() -> None:
    with pytest.raises(UnknownParameter) as caught:
        parse(UpscaleParams, {"image": b"", "guidance": 5})
    assert "mean" not in str(caught.value)


def _nested(depth: int) -> object:
    return [_nested(depth - 1)] * 10 if depth else {}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"controls": [[]] * 1_000_000}, "controls"),
        ({"controls": [{"kind": "canny", "image": ""}] * 1_000_000}, "controls"),
        ({"controls": [dict.fromkeys(map(str, range(1_000_000)))]}, "controls[0].0"),
        ({"hires": dict.fromkeys(map(str, range(1_000_000)))}, "hires.0"),
        (dict.fromkeys(map(str, range(1_000_000)), 1), "0"),
        ({"n": _nested(6)}, "n"),
        ({"size": ["x" * 1_000_000] * 3}, "size"),
        ({"y" * 10_000_000: 1}, None),
    ],
)
def test_a_large_body_of_wrong_values_costs_little(fields: dict[str, object], param: str | None) -> None:
    """pydantic alone makes an error for each element or name, at about a kilobyte each."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            parse(GenerateParams, {"prompt": "x", **fields})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert param is None or caught.value.param == param
    assert len(str(caught.value)) < 1000
    assert peak < 150_000_000


def test_defaults_are_serialised_like_values() -> None:
    """A file's bytes do not depend on whether its request spelt a default out."""
    control = {"kind": "canny", "image": b"x"}
    explicit = {**control, "start": 0, "end": 1, "low_threshold": 100, "high_threshold": 200}
    ours = parse(GenerateParams, {"prompt": "x", "controls": [control], "hires": {}}).model_dump_json()
    hires = {"scale": 2, "strength": 0.5}
    theirs = parse(GenerateParams, {"prompt": "x", "controls": [explicit], "hires": hires}).model_dump_json()
    assert ours == theirs


@pytest.mark.parametrize(("field", "value"), [("clip_skip", 1), ("ip_adapter", [{}])])
def test_a_field_that_is_not_built_is_refused_as_such(field: str, value: object) -> None:
    with pytest.raises(NotSupported) as caught:
        parse(GenerateParams, {"prompt": "x", field: value})
    assert (caught.value.param, caught.value.status) == (field, 501)
    assert str(caught.value) == f"{field} is not supported; {GenerateParams.not_built[field].instead}."


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampler", "euler"),
        ("reproducibility", "fast"),
        ("clip_skip", 0),
        ("loras", []),
        ("ip_adapter", []),
    ],
)
def test_what_happens_anyway_may_be_asked_for(field: str, value: object) -> None:
    assert parse(GenerateParams, {"prompt": "x", field: value}).prompt == "x"


def test_only_harmless_values_pass() -> None:
    field = NotBuilt(False, "wait for the answer")
    refuse_unless_harmless("stream", False, field)
    with pytest.raises(NotSupported, match=r"^stream is not supported; wait for the answer\.$") as caught:
        refuse_unless_harmless("stream", True, field)
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
