"""Every field of OpenAI's images API: honoured, or refused by name."""

from __future__ import annotations

from typing import Any, cast

import openai
import pytest

from tests.pictures import decoded, encoded, noise

_QUICK = {"num_inference_steps": 2, "seed": 3}


async def _generate(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await cast(Any, client.images).generate(**{"prompt": "a red circle", "size": "64x64", **fields})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quality", "num_steps", "answered"),
    [
        (None, 4, "medium"),
        ("auto", 4, "medium"),
        ("low", 2, "low"),
        ("medium", 4, "medium"),
        ("standard", 4, "medium"),
        ("high", 6, "high"),
        ("hd", 6, "high"),
        ("xhigh", 8, "xhigh"),
        ("max", 12, "max"),
    ],
)
async def test_quality_is_a_number_of_steps(
    client: openai.AsyncOpenAI, quality: str | None, num_steps: int, answered: str
) -> None:
    answer = await _generate(client, quality=quality)
    assert answer.data[0].parameters["num_inference_steps"] == num_steps
    assert answer.quality == answered
    with_steps = await _generate(client, quality=quality, extra_body={**_QUICK, "num_inference_steps": 3})
    assert with_steps.data[0].parameters["num_inference_steps"] == 3


async def test_the_best_quality_is_also_larger_where_nothing_decides_the_size(client: openai.AsyncOpenAI) -> None:
    answer = await _generate(client, quality="max", size="auto", extra_body=_QUICK)
    assert (answer.size, answer.upscaler) == ("128x128", "tiny-x4")
    assert decoded(answer.data[0].b64_json).size == (128, 128)
    again = await _generate(client, extra_body=answer.data[0].parameters)
    assert again.data[0].b64_json == answer.data[0].b64_json
    sized = await _generate(client, quality="max", size="96x64", extra_body=_QUICK)
    assert (sized.size, sized.model_extra.get("upscaler")) == ("96x64", None)


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
        sizes.append(len(answer.data[0].b64_json))
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
        {"model": "small-sdxl"},
    ],
)
async def test_harmless_values_are_accepted(client: openai.AsyncOpenAI, fields: dict[str, Any]) -> None:
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
async def test_other_values_are_refused_by_name(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await _generate(client, **fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert param in caught.value.message


async def test_labels_are_returned(client: openai.AsyncOpenAI) -> None:
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
    edited = await client.images.edit(image=encoded(noise(64, 64)), prompt="a circle", extra_body=_QUICK)
    assert edited.usage is not None
    assert edited.usage.input_tokens_details.image_tokens == 64
