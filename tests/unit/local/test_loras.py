"""LoRAs in the text stage, against peft's own forward on the encoders of transformers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from atelier.catalogue.catalogue import Catalogue
from atelier.core.adapters import Lora
from atelier.core.conditioning import Prompts, Text, TextEmbeds
from atelier.core.sampling import Reproducibility
from atelier.families.family import Adapter, LoadedAdapters
from atelier.families.family import TextEncoders as Encoders
from atelier.families.sdxl.text import TextEncoders
from atelier.families.unet.adapters.adapter import LowRank
from atelier.local.per_model import PerModel
from atelier.local.runtime import Runtime
from atelier.local.texts import TextEncoderStage, TextTask
from atelier.models.loading import load_unet
from atelier.pipeline.stages import EncodedTexts
from tests.loras import add_lora, write_lora
from tests.small_models import CPU, TEXT_WIDTHS

_RED, _BLUE = Text("a red circle", "a red circle"), Text("blue " * 80, "blue " * 80)
_LORAS = ("a", "b")


def _encoders(catalogue: Catalogue, runtime: Runtime) -> PerModel[Encoders]:
    encoders = PerModel[Encoders](catalogue.model, lambda entry: TextEncoders(entry, CPU), runtime.thread)
    encoders.load(catalogue.models)
    return encoders


class Texts:
    """The text stage with two LoRAs for both encoders and one for the UNet; and peft's encoders with the two."""

    def __init__(self, catalogue: Catalogue, folder: Path) -> None:
        entry, runtime = catalogue.model(None), Runtime.start("texts", CPU, num_threads=1)
        self.peft = TextEncoders(entry, CPU)
        for seed, name in enumerate(_LORAS):
            for module in self.peft.modules.values():
                add_lora(module, name, rank=4 + seed, targets="text", seed=seed, strength=1.0)
            write_lora(name, folder / f"{name}.safetensors", self.peft.modules)
        unet = load_unet(entry, CPU)
        add_lora(unet, "unet-only", rank=2, targets="attention", seed=5)
        write_lora("unet-only", folder / "unet-only.safetensors", {"unet": unet})
        encoders = _encoders(catalogue, runtime)
        adapters = LoadedAdapters(
            lambda name: folder / f"{name}.safetensors", lambda model: encoders.made[model].modules, CPU
        )
        self.stage = TextEncoderStage(encoders, runtime, adapters)

    def oracle(self, text: Text, *loras: Lora) -> TextEmbeds:
        for module in self.peft.modules.values():
            module.set_adapter([lora.id for lora in loras])  # type: ignore[operator]
            for layer in module.modules():
                for lora in loras:
                    if isinstance(layer, LoraLayer):
                        layer.set_scale(lora.id, lora.weight)
        [embeds] = self.peft.encode([text])
        return embeds

    async def encode(
        self, *loras: Lora, reproducibility: Reproducibility = "fast", positive: Text = _RED
    ) -> EncodedTexts:
        prompts = Prompts(positive=positive, negative=_BLUE, loras=loras)
        return await self.stage.encode_texts("small-sdxl", prompts, reproducibility)


@pytest.fixture(scope="module")
def texts(small_catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return Texts(small_catalogue, tmp_path_factory.mktemp("loras"))


def _assert_close(ours: TextEmbeds | None, theirs: TextEmbeds) -> None:
    assert ours is not None
    np.testing.assert_allclose(ours.prompt_embeds, theirs.prompt_embeds, atol=2e-5)
    np.testing.assert_allclose(ours.pooled_prompt_embeds, theirs.pooled_prompt_embeds, atol=2e-5)


@pytest.mark.parametrize("loras", [(Lora("a", 1.0),), (Lora("a", 0.5), Lora("b", -1.0))])
@pytest.mark.parametrize("reproducibility", ["fast", "exact"])
async def test_embeddings_are_those_of_peft(
    texts: Texts, loras: tuple[Lora, ...], reproducibility: Reproducibility
) -> None:
    encoded = (await texts.encode(*loras, reproducibility=reproducibility)).conditioning
    plain = (await texts.encode(reproducibility=reproducibility)).conditioning
    _assert_close(encoded.positive, texts.oracle(_RED, *loras))
    _assert_close(encoded.negative, texts.oracle(_BLUE, *loras))
    assert np.abs(encoded.positive.prompt_embeds - plain.positive.prompt_embeds).max() > 0.1


async def test_the_cache_tells_loras_and_weights_apart(texts: Texts) -> None:
    for loras in [(), (Lora("a", 1.0),), (Lora("a", 0.5),), (Lora("b", 1.0),)]:
        for _ in range(2):
            encoded = (await texts.encode(*loras)).conditioning
            if loras:
                _assert_close(encoded.positive, texts.oracle(_RED, *loras))


async def test_texts_with_different_loras_share_a_call(texts: Texts) -> None:
    """Each chunk of the call is a row with its own factors; the blue text has two."""
    loras = [(), (Lora("a", 1.0),), (Lora("b", 0.7),), (Lora("a", -0.5), Lora("b", 0.5))]
    tasks: list[TextTask] = []

    async def keep(missing: Sequence[TextTask]) -> list[TextEmbeds]:
        tasks.extend(missing)
        return await texts.stage.encode(missing)

    for of_text in loras:
        prompts = Prompts(positive=Text("x y", "x y"), negative=_BLUE, loras=of_text)
        await texts.stage.encode_texts("small-sdxl", prompts, "fast", encode=keep)
    for task, embeds in zip(tasks, await texts.stage.encode(tasks), strict=True):
        loras_of_text = [lora for lora, _ in task.key.loras]
        if loras_of_text:
            _assert_close(embeds, texts.oracle(task.key.text, *loras_of_text))


class _Unkept(LoadedAdapters):
    """A LoRA that nobody keeps in memory: each time it is asked for, it is made anew."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[torch.Tensor]] = []

    def get(self, model: str, lora: str) -> Future[Adapter]:  # noqa: ARG002
        change, future = LowRank(torch.zeros(1, TEXT_WIDTHS[0]), torch.zeros(TEXT_WIDTHS[0], 1)), Future[Adapter]()
        self.made.append(weakref.ref(change.down))
        layers = {"encoder.layers.0.self_attn.q_proj": change}
        future.set_result(Adapter(unet={}, text_encoder=layers, text_encoder_2={}, weights_hash="hash"))
        return future


async def test_a_cached_text_keeps_no_lora_in_memory(small_catalogue: Catalogue) -> None:
    runtime, adapters = Runtime.start("texts", CPU, num_threads=1), _Unkept()
    stage = TextEncoderStage(_encoders(small_catalogue, runtime), runtime, adapters)
    prompts = Prompts(positive=_RED, negative=None, loras=(Lora("a", 1.0),))
    first, again = [await stage.encode_texts("small-sdxl", prompts, "fast") for _ in range(2)]
    assert again.conditioning.positive is first.conditioning.positive
    # The event loop drops what it waited for in its next turn.
    await asyncio.sleep(0)
    gc.collect()
    assert [made() for made in adapters.made] == [None, None]


async def test_a_lora_for_the_unet_alone_changes_no_text(texts: Texts) -> None:
    plain, other = await texts.encode(), await texts.encode(Lora("unet-only", 1.0))
    assert other.conditioning.positive is plain.conditioning.positive
    assert other.origin == plain.origin


async def test_the_origin_names_the_weights_of_loras(texts: Texts) -> None:
    weights = (await texts.encode(Lora("a", 1.0), Lora("b", 1.0))).origin.weights
    assert set(weights) == {"small-sdxl/text_encoders", "a/text_encoders", "b/text_encoders"}
    assert len(set(weights.values())) == 3
