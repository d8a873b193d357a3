"""The official client, unmodified; the same calls against the real graph are in tests/integration."""

from __future__ import annotations

import httpx2
import openai
import pytest

from tests.pictures import decoded
from tests.stages import RecordingStages


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


@pytest.fixture
def sent(http: httpx2.AsyncClient) -> list[httpx2.Request]:
    """The requests that the client sends, in order."""
    requests: list[httpx2.Request] = []

    async def record(request: httpx2.Request) -> None:
        requests.append(request)

    http.event_hooks = {"request": [record]}
    return requests


async def test_a_passed_deadline_is_not_retried(
    client: openai.AsyncOpenAI, stages: RecordingStages, sent: list[httpx2.Request]
) -> None:
    stages.may_denoise.clear()
    with pytest.raises(openai.InternalServerError) as caught:
        await client.with_options(max_retries=2).images.generate(
            prompt="x", size="64x64", extra_body={"num_inference_steps": 2, "deadline_s": 0.3}
        )
    assert (caught.value.status_code, caught.value.param) == (504, "deadline_s")
    assert len(sent) == 1


async def test_what_is_not_supported_is_not_retried(client: openai.AsyncOpenAI, sent: list[httpx2.Request]) -> None:
    with pytest.raises(openai.InternalServerError, match="clip_skip is not supported; leave it out"):
        await client.with_options(max_retries=2).images.generate(prompt="x", extra_body={"clip_skip": 2})
    assert len(sent) == 1
