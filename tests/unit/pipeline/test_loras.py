"""LoRAs of requests, from the fields and prompts of a client to the passes of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.entries import LoraEntry
from atelier.catalogue.loras import LoraLibrary, Loras
from atelier.core.adapters import Lora
from atelier.core.conditioning import Prompts, Text
from atelier.core.errors import InvalidParameter, LoraNotFound, UnsupportedValue
from atelier.core.params import GenerateParams, parse
from atelier.imaging.metadata import Metadata
from atelier.local.stages import LocalStages
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.metadata import metadata_of
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.resolve import Plan, resolve
from tests.lora_files import StagesWithoutLoras, with_loras, write_lora
from tests.records import new_record
from tests.stages import RecordingStages

_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def _entry(lora_id: str, *words: str, weight: float = 1.0, base: str | None = None) -> LoraEntry:
    file = Path(f"/{lora_id}.safetensors")
    return LoraEntry(
        id=lora_id, description="", licence="MIT", file=file, weight=weight, trigger_words=words, base=base
    )


_LORAS = Loras(
    {
        entry.id: entry
        for entry in (
            _entry("neon", "neon style", weight=0.8),
            _entry("pastel", "pastel", "pale"),
            _entry("outline"),
            _entry("far", base=_SDXL),
            *(_entry(f"many-{index}") for index in range(9)),
        )
    }
)


def _plan(prompt: str = "a circle", **fields: object) -> Plan:
    params = parse(GenerateParams, {"prompt": prompt, "seed": 1, **fields})
    return _resolved(params)


def _resolved(params: GenerateParams) -> Plan:
    catalogue = read_catalogue().only(["tiny-sdxl"], upscalers=["tiny-x4"])
    return resolve(params, InputSizes(), catalogue, loras=_LORAS, max_pixel_steps=100_000_000, random=Random(0))


def _named(plan: Plan) -> list[tuple[str | None, float | None]]:
    assert all(lora.name is None for lora in plan.params.loras)
    return [(lora.model, lora.weight) for lora in plan.params.loras]


def test_loras_reach_the_engine_and_the_text_encoders_in_their_order() -> None:
    plan = _plan(loras=[{"model": "outline", "weight": -1}, {"name": "neon", "weight": 0.5}])
    acting = (Lora("neon", 0.5), Lora("outline", -1))
    assert [pass_.loras for pass_ in plan.passes] == [acting]
    assert plan.prompts.loras == acting
    assert _named(plan) == [("outline", -1), ("neon", 0.5)]


def test_the_second_pass_has_the_loras_of_the_first() -> None:
    plan = _plan(loras=[{"model": "neon"}], hires={"scale": 2})
    assert [pass_.loras for pass_ in plan.passes] == [(Lora("neon", 0.8),)] * 2


def test_a_request_without_loras_has_none() -> None:
    plan = _plan("  a  circle, ")
    assert (plan.params.prompt, plan.params.loras, plan.prompts.loras) == ("  a  circle, ", (), ())
    assert plan.trigger_words_added == ()


def test_a_weight_that_is_left_out_is_the_loras_own() -> None:
    assert _named(_plan(loras=[{"model": "neon"}, {"model": "pastel"}])) == [("neon", 0.8), ("pastel", 1)]
    assert _named(_plan("a <lora:neon>")) == [("neon", 0.8)]


def test_tags_in_every_prompt_name_loras() -> None:
    plan = _plan(
        "a circle <lora:neon:0.5>",
        prompt_2="a ring <lora:outline:2>",
        negative_prompt="blue, <lora:pastel:-1>",
        negative_prompt_2="<lora:many-1:1> dark",
        loras=[{"model": "many-0", "weight": 0.1}],
    )
    assert _named(plan) == [("many-0", 0.1), ("neon", 0.5), ("outline", 2), ("pastel", -1), ("many-1", 1)]
    words = "neon style, pastel, pale"
    assert plan.prompts.positive == Text(f"a circle, {words}", f"a ring, {words}")
    assert plan.prompts.negative == Text("blue", "dark")


def test_tags_of_a_prompt_that_is_sent_twice_count_once() -> None:
    tagged = "a circle <lora:outline:0.5>"
    plan = _plan(tagged, prompt_2=tagged, negative_prompt="b <lora:neon>", negative_prompt_2="b <lora:neon>")
    assert _named(plan) == [("outline", 0.5), ("neon", 0.8)]
    assert plan.prompts.positive == Text("a circle, neon style", "a circle, neon style")
    assert plan.prompts.negative == Text("b", "b")


def test_a_second_prompt_of_only_a_tag_is_the_first() -> None:
    assert _plan("a circle", prompt_2="<lora:neon>").prompts.positive == Text(*["a circle, neon style"] * 2)
    assert _plan("a circle", negative_prompt="<lora:outline>").prompts.negative == Text("", "")


def test_trigger_words_that_are_missing_are_put_into_the_prompt() -> None:
    plan = _plan("Neon  Style circle", loras=[{"model": "neon"}, {"model": "pastel"}])
    assert plan.params.prompt == "Neon  Style circle, pastel, pale"
    assert plan.trigger_words_added == ("pastel", "pale")


def test_a_lora_of_weight_zero_changes_nothing() -> None:
    plan = _plan(loras=[{"model": "neon", "weight": 0}, {"model": "outline", "weight": 1}])
    assert (plan.params.prompt, plan.trigger_words_added) == ("a circle", ())
    assert plan.prompts.loras == (Lora("outline", 1),)
    assert _named(plan) == [("neon", 0), ("outline", 1)]


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("a circle <lora:neon>, red", {}),
        ("<lora:outline:0.5>", {}),
        ("<lora:neon:0.5> <lora:outline:0>", {"negative_prompt": "<lora:pastel:0.1>"}),
        ("a", {"prompt_2": "b <lora:pastel:3>", "loras": [{"name": "neon"}]}),
        ("a <lora:neon>", {"prompt_2": "a <lora:neon>", "hires": {"scale": 2}}),
    ],
)
def test_parameters_make_the_same_plan_again(prompt: str, fields: dict[str, object]) -> None:
    plan = _plan(prompt, **fields)
    again = _resolved(parse(GenerateParams, plan.parameters(1)))
    assert (again.params, again.passes, again.prompts) == (plan.params, plan.passes, plan.prompts)
    assert again.trigger_words_added == ()


def test_parameters_name_each_lora_with_its_weight() -> None:
    parameters = _plan("a circle <lora:neon>", loras=[{"name": "outline", "weight": 2}]).parameters(1)
    assert parameters["loras"] == [{"model": "outline", "weight": 2.0}, {"model": "neon", "weight": 0.8}]
    assert parameters["prompt"] == "a circle, neon style"
    assert "loras" not in _plan().parameters(1)


@pytest.mark.parametrize(
    ("prompt", "fields", "param"),
    [
        ("a", {"loras": [{"model": "outline"}, {"model": "neom"}]}, "loras[1].model"),
        ("a", {"loras": [{"name": "neom"}]}, "loras[0].name"),
        ("a <lora:neom:1>", {}, "prompt"),
        ("a", {"prompt_2": "<lora:neom>"}, "prompt_2"),
        ("a", {"negative_prompt": "<lora:neom>"}, "negative_prompt"),
        ("a", {"negative_prompt": "a", "negative_prompt_2": "<lora:neom>"}, "negative_prompt_2"),
    ],
)
def test_an_unknown_lora_is_refused_with_the_nearest(prompt: str, fields: dict[str, object], param: str) -> None:
    with pytest.raises(LoraNotFound, match=r"there is no LoRA 'neom'\. Did you mean 'neon'") as caught:
        _plan(prompt, **fields)
    assert caught.value.param == param


def test_a_lora_of_another_model_is_refused_with_its_own() -> None:
    with pytest.raises(InvalidParameter) as caught:
        _plan(loras=[{"model": "far"}])
    assert caught.value.param == "loras[0].model"
    assert str(caught.value) == f"loras[0].model: the LoRA 'far' goes with {_SDXL}, not with tiny-sdxl."


@pytest.mark.parametrize(
    ("prompt", "fields", "param"),
    [
        ("a", {"loras": [{"model": "neon"}, {"name": "neon"}]}, "loras[1].name"),
        ("a <lora:neon:1>", {"loras": [{"model": "neon"}]}, "prompt"),
        ("a <lora:neon:1> <lora:neon:1>", {}, "prompt"),
        ("a <lora:neon:1>", {"negative_prompt": "<lora:neon:1>"}, "negative_prompt"),
    ],
)
def test_a_lora_is_named_once(prompt: str, fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidParameter, match="the LoRA 'neon' is named twice; name it once") as caught:
        _plan(prompt, **fields)
    assert caught.value.param == param


def test_tags_count_with_the_list_towards_the_limit() -> None:
    loras = [{"model": f"many-{index}"} for index in range(7)]
    assert len(_plan("a <lora:many-7>", loras=loras).params.loras) == 8
    with pytest.raises(InvalidParameter, match="prompt: a request may name at most 8 LoRAs; this one names 9"):
        _plan("a <lora:many-7> <lora:many-8>", loras=loras)


def test_a_broken_tag_is_refused_by_its_field() -> None:
    with pytest.raises(InvalidParameter) as caught:
        _plan("a", negative_prompt="<lora:neon")
    assert caught.value.param == "negative_prompt"
    with pytest.raises(UnsupportedValue):
        _plan("a <lora:neon:1:0.5>")


def test_a_prompt_stays_within_the_limit_with_its_trigger_words() -> None:
    longest = "x" * (32_000 - len(", neon style"))
    assert len(_plan(longest, loras=[{"model": "neon"}]).params.prompt) == 32_000
    with pytest.raises(InvalidParameter, match="prompt: with the trigger words of its LoRAs it has 32001") as caught:
        _plan(longest + "x", loras=[{"model": "neon"}])
    assert caught.value.param == "prompt"


def _metadata(plan: Plan) -> Metadata:
    return metadata_of(plan, 1, Provenance())


def test_metadata_say_which_trigger_words_were_added() -> None:
    assert _metadata(_plan("a <lora:neon>")).record["trigger_words_added"] == ["neon style"]
    assert "trigger_words_added" not in _metadata(_plan("a neon style <lora:neon>")).record


def test_the_infotext_has_loras_as_tags() -> None:
    plan = _plan("a circle <lora:outline:0.5>", loras=[{"model": "neon"}, {"model": "pastel", "weight": 0}])
    [first, *_] = _metadata(plan).infotext.splitlines()
    assert first == "a circle, neon style <lora:neon:0.8> <lora:outline:0.5>"
    [first, *_] = _metadata(_plan("<lora:outline:-1>")).infotext.splitlines()
    assert first == "<lora:outline:-1>"


@pytest.fixture
def stages(small_stages: LocalStages) -> RecordingStages:
    """The small model's stages, which receive no LoRAs, with a record of what they were to receive."""
    return RecordingStages(StagesWithoutLoras(small_stages))


@pytest.fixture
def pipeline(stages: RecordingStages, small_catalogue: Catalogue, tmp_path: Path) -> Pipeline:
    write_lora(tmp_path, "neon", trigger_words=["neon style"], weight=0.8)
    write_lora(tmp_path, "outline")
    return Pipeline(stages, with_loras(small_catalogue, tmp_path), PipelineLimits(max_pixel_steps=1_000_000))


def _params(**fields: object) -> GenerateParams:
    return parse(GenerateParams, {"prompt": "a circle", "size": "64x32", "num_inference_steps": 2, **fields})


def _requested(stages: RecordingStages) -> Sequence[tuple[Lora, ...]]:
    return [request.pass_.loras for request in stages.requests]


@pytest.mark.parametrize(
    "fields",
    [{"loras": [{"model": "neon"}]}, {"prompt": "a circle <lora:neon>"}, {"negative_prompt": "<lora:neon>"}],
)
async def test_the_stages_receive_the_loras_of_the_folder(
    pipeline: Pipeline, stages: RecordingStages, fields: dict[str, object]
) -> None:
    result = await pipeline.generate(new_record(), _params(**fields, hires={"scale": 2}))
    assert _requested(stages) == [(Lora("neon", 0.8),)] * 2
    [(model, prompts, _)] = stages.args_of("encode_texts")
    assert model == "small-sdxl"
    assert isinstance(prompts, Prompts)
    assert prompts.loras == (Lora("neon", 0.8),)
    assert prompts.positive == Text(*["a circle, neon style"] * 2)
    assert result.plan.trigger_words_added == ("neon style",)


async def test_requests_of_other_loras_or_weights_are_not_made_once(
    pipeline: Pipeline, stages: RecordingStages
) -> None:
    weights: list[object] = [
        {"loras": [{"model": "neon", "weight": 1}]},
        {"loras": [{"model": "neon", "weight": 1}]},
        {"loras": [{"model": "neon", "weight": 2}]},
        {"loras": [{"model": "outline", "weight": 1}]},
    ]
    params = [_params(seed=3, **fields) for fields in weights if isinstance(fields, dict)]
    await asyncio.gather(*(pipeline.generate(new_record(f"req_{index}"), one) for index, one in enumerate(params)))
    assert sorted(_requested(stages)) == [(Lora("neon", 1),), (Lora("neon", 2),), (Lora("outline", 1),)]


async def test_an_unknown_lora_is_refused_before_any_stage(pipeline: Pipeline, stages: RecordingStages) -> None:
    with pytest.raises(LoraNotFound, match="'neom'"):
        await pipeline.generate(new_record(), _params(prompt="a <lora:neom>"))
    assert stages.calls == []


async def test_the_folder_is_looked_at_for_requests_with_loras_only(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: LoraLibrary) -> Loras:
        raise OSError("the disk is gone")

    monkeypatch.setattr(LoraLibrary, "look", fail)
    assert (await pipeline.generate(new_record(), _params())).pictures
    with pytest.raises(OSError, match="the disk is gone"):
        await pipeline.generate(new_record(), _params(prompt="a <lora:neon>"))
