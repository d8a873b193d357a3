"""Every field of OpenAI's images API: honoured, or refused by name."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any, cast

import httpx2
import openai
import pytest
from PIL import Image

from atelier.local import LocalStages

_QUICK = {"num_inference_steps": 2, "seed": 3}


@pytest.fixture
def client(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)


async def _generate(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await cast(Any, client.images).generate(**{"prompt": "a red circle", "size": "64x64", **fields})


def _file(b64_json: str) -> bytes:
    return base64.b64decode(b64_json)


@pytest.mark.parametrize(
    ("quality", "num_steps", "answered"),
    [
        (None, 20, "medium"),
        ("auto", 20, "medium"),
        ("low", 10, "low"),
        ("medium", 20, "medium"),
        ("standard", 20, "medium"),
        ("high", 30, "high"),
        ("hd", 30, "high"),
        ("xhigh", 40, "xhigh"),
        ("max", 60, "max"),
    ],
)
async def test_quality_is_a_number_of_steps(
    client: openai.AsyncOpenAI, quality: str | None, num_steps: int, answered: str
) -> None:
    answer = await _generate(client, quality=quality)
    assert answer.data[0].parameters["num_inference_steps"] == num_steps
    assert answer.quality == answered
    told = await _generate(client, quality=quality, extra_body=_QUICK)
    assert told.data[0].parameters["num_inference_steps"] == 2


async def test_the_best_quality_is_also_larger_where_nothing_says_how_large(client: openai.AsyncOpenAI) -> None:
    answer = await _generate(client, quality="max", size="auto", extra_body=_QUICK)
    assert (answer.size, answer.upscaler) == ("256x256", "tiny-x4")
    assert Image.open(io.BytesIO(_file(answer.data[0].b64_json))).size == (256, 256)
    again = await _generate(client, extra_body=answer.data[0].parameters)
    assert again.data[0].b64_json == answer.data[0].b64_json
    told = await _generate(client, quality="max", size="128x128", extra_body=_QUICK)
    assert (told.size, told.model_extra.get("upscaler")) == ("128x128", None)


@pytest.mark.parametrize(("style", "guidance_scale"), [(None, 5.0), ("vivid", 7.0), ("natural", 3.5)])
async def test_style_is_guidance(client: openai.AsyncOpenAI, style: str | None, guidance_scale: float) -> None:
    answer = await _generate(client, style=style, extra_body=_QUICK)
    assert answer.data[0].parameters["guidance_scale"] == guidance_scale


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
async def test_compression_makes_files_smaller(client: openai.AsyncOpenAI, output_format: str) -> None:
    sizes = []
    for output_compression in (100, 60, 5):
        answer = await _generate(
            client, output_format=output_format, output_compression=output_compression, extra_body=_QUICK
        )
        sizes.append(len(_file(answer.data[0].b64_json)))
        assert answer.output_format == output_format
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


@pytest.mark.parametrize(
    "fields",
    [
        {"background": "auto"},
        {"background": "opaque"},
        {"moderation": "low"},
        {"moderation": "auto"},
        {"output_format": "png", "output_compression": 100},
        {"size": None},
        {"n": None, "stream": None, "style": None, "user": None},
        {"stream": False},
        {"model": "tiny-sdxl"},
    ],
)
async def test_what_is_accepted(client: openai.AsyncOpenAI, fields: dict[str, Any]) -> None:
    answer = await _generate(client, **fields, extra_body=_QUICK)
    assert answer.background == "opaque"
    assert len(answer.data) == 1


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"moderation": "high"}, "moderation", "invalid_value"),
        ({"quality": "best"}, "quality", "invalid_value"),
        ({"style": "loud"}, "style", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "unsupported_value"),
        ({"output_format": "svg"}, "output_format", "unsupported_value"),
        ({"output_compression": 101}, "output_compression", "invalid_value"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"complexity": "low"}, "complexity", "unsupported_value"),
        ({"frame_count": 3}, "frame_count", "unsupported_value"),
        ({"frame_duration_ms": 100}, "frame_duration_ms", "unsupported_value"),
        ({"svg": {"model": "x"}}, "svg", "unsupported_value"),
        ({"partial_images": 1}, "partial_images", "invalid_value"),
        ({"size": "1792x1024"}, "size", "invalid_value"),
        ({"user": "x" * 600}, "user", "invalid_value"),
    ],
)
async def test_what_is_refused_by_name(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await _generate(client, **fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert param in caught.value.message


async def test_labels_come_back(client: openai.AsyncOpenAI) -> None:
    for fields, expected in (
        ({"user": "a"}, "a"),
        ({"safety_identifier": "b", "user": "a"}, "b"),
        ({"safety_identifier": "", "user": "a"}, "a"),
        ({}, None),
    ):
        answer = await _generate(client, **fields, extra_body=_QUICK)
        assert answer.safety_identifier == expected


async def test_usage_counts_tokens_and_latent_positions(client: openai.AsyncOpenAI) -> None:
    answer = await _generate(client, prompt="a red circle", n=2, size="64x96", extra_body=_QUICK)
    assert answer.usage.model_dump() == {
        "input_tokens": 3,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 3},
        "output_tokens": 2 * 8 * 12,
        "output_tokens_details": {"image_tokens": 2 * 8 * 12, "text_tokens": 0},
        "total_tokens": 3 + 2 * 8 * 12,
    }
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    edited = await client.images.edit(image=picture.getvalue(), prompt="a circle", extra_body=_QUICK)
    assert edited.usage is not None
    assert edited.usage.input_tokens_details.image_tokens == 64


async def test_every_answer_has_an_id_of_its_own(http: httpx2.AsyncClient) -> None:
    answers = [await http.get(path) for path in ("/health", "/health", "/nowhere")]
    answers.append(await http.post("/v1/images/generations", content=b"{"))
    answers.append(await http.post("/v1/images/generations", content=b"x" * 200_000))
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(one.startswith("req_") for one in ids)


async def test_equal_seeded_requests_in_flight_are_made_once(
    http: httpx2.AsyncClient, local_stages: LocalStages
) -> None:
    body = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 30, "seed": 5}
    before = local_stages.engine.status().num_steps
    bodies = [{**body, "user": str(index)} for index in range(4)]
    answers = await asyncio.gather(*(http.post("/v1/images/generations", json=one) for one in bodies))
    assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    assert [answer.json()["safety_identifier"] for answer in answers] == ["0", "1", "2", "3"]
    assert local_stages.engine.status().num_steps - before == 30


async def test_who_leaves_does_not_take_the_others_work_along(
    http: httpx2.AsyncClient, local_stages: LocalStages
) -> None:
    body = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 100, "seed": 6}
    before = local_stages.engine.status().num_steps
    first, second = (asyncio.create_task(http.post("/v1/images/generations", json=body)) for _ in range(2))
    while local_stages.engine.status().num_steps < before + 3:  # noqa: ASYNC110 the engine tells nobody
        await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).status_code == 200
    assert local_stages.engine.status().num_steps - before == 100
