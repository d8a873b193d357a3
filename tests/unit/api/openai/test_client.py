"""The official client, unmodified; the same calls against the real graph are in tests/integration."""

from __future__ import annotations

import openai
import pytest

from tests.pictures import decoded


async def test_generate_with_our_own_fields(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.generate(
        model="small-sdxl",
        prompt="a blue square",
        n=1,
        size="64x64",
        output_format="webp",
        user="someone",
        extra_body={"seed": 3, "num_inference_steps": 2, "guidance_scale": 4},
    )
    assert answer.data is not None
    assert answer.data[0].b64_json is not None
    assert decoded(answer.data[0].b64_json).size == (64, 64)
    assert answer.data[0].seed == 3  # type: ignore[attr-defined]


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["small-sdxl"]
    assert (await client.models.retrieve("small-sdxl")).owned_by == "atelier"


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.images.generate(prompt="x", n=99)
    assert caught.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        await client.images.generate(prompt="x", model="dall-e-9")
    with pytest.raises(openai.InternalServerError) as not_built:
        await client.images.generate(prompt="x", extra_body={"clip_skip": 2})
    assert not_built.value.status_code == 501
    with pytest.raises(openai.PermissionDeniedError):
        await client.models.delete("small-sdxl")
