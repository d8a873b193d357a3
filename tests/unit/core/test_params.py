from __future__ import annotations

import math
import pickle

import pytest

from atelier.core.errors import AtelierError, InvalidParameter, NotSupported, UnknownParameter
from atelier.core.params import GenerateParams, parse


def test_a_prompt_is_enough() -> None:
    params = parse(GenerateParams, {"prompt": "a red circle"})
    assert (params.n, params.size, params.seed, params.output_format) == (1, "auto", -1, "png")


def test_null_means_absent() -> None:
    assert parse(GenerateParams, {"prompt": "x", "n": None, "strength": None}).n == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 11),
        ("n", 1.5),
        ("n", True),
        ("n", "2"),
        ("size", 128),
        ("size", "128x"),
        ("size", "-64x64"),
        ("output_format", "gif"),
        ("seed", -2),
        ("seed", 2**32),
        ("seed", 1e300),
        ("num_inference_steps", 0),
        ("num_inference_steps", 151),
        ("guidance_scale", -0.1),
        ("guidance_scale", 30.1),
        ("guidance_scale", math.nan),
        ("guidance_scale", math.inf),
        ("guidance_scale", "5"),
        ("guidance_rescale", 1.1),
        ("eta", -0.1),
        ("sampler", "k_euler"),
        ("schedule", "linear"),
        ("reproducibility", "always"),
        ("deadline_s", 0),
    ],
)
def test_a_bad_value_is_refused_by_name_with_the_value(field: str, value: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(GenerateParams, {"prompt": "x", field: value})
    assert caught.value.param == field
    assert str(caught.value).startswith(field)
    assert repr(value)[:70] in str(caught.value)


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


@pytest.mark.parametrize(
    ("fields", "known"),
    [({"hires": {"zoom": 2}}, "strength"), ({"upscale": {"zoom": 2}}, "scale"), ({"zoom": 2}, "num_inference_steps")],
)
def test_an_unknown_field_is_told_the_known_ones_of_its_place(fields: dict[str, object], known: str) -> None:
    with pytest.raises(UnknownParameter) as caught:
        parse(GenerateParams, {"prompt": "x", **fields})
    assert known in str(caught.value)
    assert "guess_mode" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_blank_prompt_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="prompt: must contain more than white space"):
        parse(GenerateParams, {"prompt": text})


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(InvalidParameter, match="prompt is required"):
        parse(GenerateParams, {})


def test_an_unknown_field_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(UnknownParameter, match="guidance_scale") as caught:
        parse(GenerateParams, {"prompt": "x", "guidence": 5})
    assert caught.value.param == "guidence"


@pytest.mark.parametrize(("field", "value"), [("clip_skip", 1), ("loras", [{"model": "x"}]), ("priority", "batch")])
def test_what_is_not_built_is_refused_as_such(field: str, value: object) -> None:
    with pytest.raises(NotSupported) as caught:
        parse(GenerateParams, {"prompt": "x", field: value})
    assert (caught.value.param, caught.value.status) == (field, 501)


@pytest.mark.parametrize(
    ("field", "value"), [("sampler", "euler"), ("priority", "standard"), ("reproducibility", "fast")]
)
def test_what_happens_anyway_may_be_asked_for(field: str, value: object) -> None:
    assert parse(GenerateParams, {"prompt": "x", field: value}).prompt == "x"


def test_errors_survive_pickling() -> None:
    error = InvalidParameter("n: too many", param="n")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.param, copy.status) == ("n: too many", "n", 400)


def test_every_error_explains_itself_without_a_message() -> None:
    def tree(kind: type[AtelierError]) -> list[type[AtelierError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]

    for kind in tree(AtelierError):
        assert str(kind()) == kind.__doc__
