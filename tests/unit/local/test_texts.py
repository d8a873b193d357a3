from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.loras import LoraLibrary
from atelier.core.conditioning import Prompts, Text, TextEmbeds
from atelier.core.errors import InvalidParameter
from atelier.core.sampling import Reproducibility
from atelier.families.family import LoadedAdapters, TextEncoders, WeightedAdapter
from atelier.families.unet.adapters.keys import Part
from atelier.local.per_model import PerModel
from atelier.local.runtime import Runtime
from atelier.local.texts import TextEncoderStage, TextKey, TextTask
from tests.small_models import CPU

_RED, _BLUE, _LONG = Text("red", "red"), Text("blue", "blue"), Text("long", "long")


class _RecordingEncoders:
    """Text encoders that record the texts of every call; embeddings hold the first letter and the call's number."""

    weights_hash = "hash"

    def __init__(self) -> None:
        self.modules: Mapping[Part, torch.nn.Module] = {}
        self.calls: list[list[str]] = []

    def bring(self) -> None: ...

    def unload(self) -> bool:
        return False

    def check_length(self, text: Text) -> None:
        if text == _LONG:
            raise InvalidParameter("too long", param="prompt")

    def encode(self, texts: Sequence[Text], adapters: Sequence[Sequence[WeightedAdapter]] = ()) -> list[TextEmbeds]:
        self.calls.append([text.prompt for text in texts])
        assert list(adapters) == [() for _ in texts]
        return [
            TextEmbeds(
                prompt_embeds=np.full((77, 2), ord(text.prompt[0]), dtype=np.float32),
                pooled_prompt_embeds=np.full(2, len(self.calls), dtype=np.float32),
            )
            for text in texts
        ]


@pytest.fixture
def encoders() -> _RecordingEncoders:
    return _RecordingEncoders()


@pytest.fixture
def stage(encoders: _RecordingEncoders, small_catalogue: Catalogue) -> TextEncoderStage:
    """The stage with the same encoders for all models."""
    runtime = Runtime.start("texts", CPU, num_threads=1)
    adapters = LoadedAdapters(LoraLibrary().file, lambda _: {}, CPU)

    def find(model: str) -> ModelEntry:
        return small_catalogue.model(None).model_copy(update={"id": model})

    per_model = PerModel[TextEncoders](find, lambda _: encoders, runtime.thread)
    per_model.load(map(find, "ab"))
    return TextEncoderStage(per_model, runtime, adapters, max_cached_texts=4)


def _tasks(model: str, reproducibility: Reproducibility, *texts: Text) -> list[TextTask]:
    return [TextTask(TextKey(model, text, reproducibility)) for text in texts]


async def test_positive_and_negative_embeddings_are_those_of_their_texts(stage: TextEncoderStage) -> None:
    encoded = await stage.encode_texts("a", Prompts(positive=_RED, negative=_BLUE), "fast")
    assert encoded.conditioning.positive.prompt_embeds[0, 0] == ord("r")
    assert encoded.conditioning.negative is not None
    assert encoded.conditioning.negative.prompt_embeds[0, 0] == ord("b")
    assert encoded.origin.weights == {"a/text_encoders": "hash"}


async def test_without_a_negative_prompt_nothing_is_encoded_for_it(
    stage: TextEncoderStage, encoders: _RecordingEncoders
) -> None:
    encoded = await stage.encode_texts("a", Prompts(positive=_RED, negative=None), "fast")
    assert encoded.conditioning.negative is None
    assert encoders.calls == [["red"]]


@pytest.mark.parametrize("reproducibility", ["fast", "exact"])
async def test_a_cached_text_is_not_encoded_again(
    stage: TextEncoderStage, encoders: _RecordingEncoders, reproducibility: Reproducibility
) -> None:
    first = await stage.encode_texts("a", Prompts(positive=_RED, negative=None), reproducibility)
    again = await stage.encode_texts("a", Prompts(positive=_RED, negative=_BLUE), reproducibility)
    assert encoders.calls == [["red"], ["blue"]]
    assert again.conditioning.positive is first.conditioning.positive


@pytest.mark.parametrize(
    ("model", "reproducibility", "text"),
    [("b", "fast", _RED), ("a", "exact", _RED), ("a", "fast", Text("red", "blue"))],
)
async def test_the_cache_tells_models_texts_and_reproducibility_apart(
    stage: TextEncoderStage,
    encoders: _RecordingEncoders,
    model: str,
    reproducibility: Reproducibility,
    text: Text,
) -> None:
    await stage.encode_texts("a", Prompts(positive=_RED, negative=None), "fast")
    await stage.encode_texts(model, Prompts(positive=text, negative=None), reproducibility)
    assert encoders.calls == [["red"], ["red"]]


async def test_the_cache_drops_the_text_that_was_used_longest_ago(
    stage: TextEncoderStage, encoders: _RecordingEncoders
) -> None:
    for name in ("r", "1", "2", "3", "r", "4", "r", "1"):
        await stage.encode_texts("a", Prompts(positive=Text(name, name), negative=None), "fast")
    assert encoders.calls == [["r"], ["1"], ["2"], ["3"], ["4"], ["1"]]


async def test_texts_of_exact_requests_are_encoded_alone(
    stage: TextEncoderStage, encoders: _RecordingEncoders
) -> None:
    exact, fast = _tasks("a", "exact", _RED, _BLUE), _tasks("a", "fast", _RED, _BLUE)
    embeds = await stage.encode([exact[0], fast[0], exact[1], fast[1]])
    assert encoders.calls == [["red"], ["red", "blue"], ["blue"]]
    assert [chr(int(of_text.prompt_embeds[0, 0])) for of_text in embeds] == ["r", "r", "b", "b"]


async def test_texts_of_different_models_are_not_encoded_together(
    stage: TextEncoderStage, encoders: _RecordingEncoders
) -> None:
    await stage.encode(_tasks("a", "fast", _RED, _BLUE) + _tasks("b", "fast", _BLUE))
    assert encoders.calls == [["red", "blue"], ["blue"]]


async def test_equal_texts_of_one_batch_are_encoded_once(
    stage: TextEncoderStage, encoders: _RecordingEncoders
) -> None:
    embeds = await stage.encode(_tasks("a", "fast", _RED, _BLUE, _RED))
    assert encoders.calls == [["red", "blue"]]
    assert embeds[0] is embeds[2]


async def test_a_text_that_is_too_long_is_rejected_before_anything_is_encoded(
    stage: TextEncoderStage, encoders: _RecordingEncoders
) -> None:
    with pytest.raises(InvalidParameter):
        await stage.encode_texts("a", Prompts(positive=_RED, negative=_LONG), "fast")
    assert encoders.calls == []


async def test_requests_may_be_batched_by_the_caller(stage: TextEncoderStage, encoders: _RecordingEncoders) -> None:
    """`encode` replaces the call of the encoders; only texts that are not cached reach it."""
    batched: list[TextTask] = []

    async def encode(tasks: Sequence[TextTask]) -> list[TextEmbeds]:
        batched.extend(tasks)
        return await stage.encode(tasks)

    await stage.encode_texts("a", Prompts(positive=_RED, negative=None), "fast")
    await asyncio.gather(
        *(
            stage.encode_texts("a", Prompts(positive=_RED, negative=text), "fast", encode=encode)
            for text in (None, _BLUE)
        )
    )
    assert batched == _tasks("a", "fast", _BLUE)
    assert encoders.calls == [["red"], ["blue"]]
