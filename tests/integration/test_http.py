"""The graph on Ray over HTTP, with the openai package and curl as clients."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
from pathlib import Path

import httpx2
import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from atelier.core.errors import InvalidParameter
from zoo.judge import judge
from zoo.scenes import Description, Thing

_PROMPT = "a red circle on the left, white background"
_RED_CIRCLE = Description(things=(Thing(colour="red", shape="circle", place="left"),), background="white")


def _image(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def test_openai_client_generates_what_the_prompt_describes(address: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
    answer = client.images.generate(prompt=_PROMPT, n=2, size="128x128", extra_body={"seed": 1})
    assert answer.data is not None
    assert len(answer.data) == 2
    for image in answer.data:
        assert judge(_image(image.b64_json), _RED_CIRCLE).is_right


@pytest.mark.parametrize("given", [None, "mine-1"])
def test_answers_carry_one_request_id(address: str, given: str | None) -> None:
    """Ray Serve's proxy adds the header; a second one would reach clients as "id, id"."""
    headers = {} if given is None else {"x-request-id": given}
    body = {"prompt": _PROMPT, "num_inference_steps": 1, "n": 0}
    for path in ("/health", "/v1/images/generations"):
        method = "GET" if path == "/health" else "POST"
        answer = httpx2.request(method, f"{address}{path}", headers=headers, json=body if method == "POST" else None)
        [returned] = answer.headers.get_list("x-request-id")
        assert given is None or returned == given


def test_sync_client_streams_previews(address: str) -> None:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        stream = client.images.generate(
            prompt=_PROMPT,
            size="128x128",
            stream=True,
            partial_images=2,
            extra_body={"seed": 1, "num_inference_steps": 100},
        )
        events = list(stream)
    *partial, completed = [event.type for event in events]
    assert completed == "image_generation.completed"
    assert set(partial) == {"image_generation.partial_image"}
    assert len(partial) <= 2  # one that is not ready before the image is left out
    assert judge(_image(events[-1].b64_json), _RED_CIRCLE).is_right


async def test_async_client_generates_an_image(address: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
        answer = await client.images.generate(prompt=_PROMPT, model="tiny-sdxl", extra_body={"seed": 1})
    assert answer.data is not None
    assert judge(_image(answer.data[0].b64_json), _RED_CIRCLE).is_right


def test_curl_gets_a_url_and_the_file_behind_it(address: str) -> None:
    body = {"prompt": "a blue square, yellow background", "seed": 5, "response_format": "url"}
    answer = _curl(f"{address}/v1/images/generations", "-H", "content-type: application/json", "-d", json.dumps(body))
    [image] = json.loads(answer)["data"]
    assert image["url"].startswith(address)
    stored = Image.open(io.BytesIO(_curl(image["url"])))
    described = Description(things=(Thing(colour="blue", shape="square"),), background="yellow")
    assert judge(stored, described).is_right


def _curl(url: str, *options: str) -> bytes:
    return subprocess.run(["curl", "-sf", url, *options], check=True, capture_output=True, timeout=60).stdout


def test_errors_have_openais_shape(address: str) -> None:
    request = [f"{address}/v1/images/generations", "-H", "content-type: application/json"]
    answer = subprocess.run(
        ["curl", "-s", "-w", "%{http_code}", *request, "-d", '{"prompt": "x", "n": 0}'],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    error = json.loads(answer[:-3])["error"]
    assert (answer[-3:], error["param"], error["type"]) == (b"400", "n", "invalid_request_error")


def _numbers(address: str) -> dict[tuple[str, str, str], float]:
    """The value of each series of `GET /metrics`, by its name, its code, or its stage, and its endpoint."""
    samples = [
        sample
        for family in text_string_to_metric_families(httpx2.get(f"{address}/metrics").text)
        for sample in family.samples
    ]
    return {
        (one.name, one.labels.get("code", one.labels.get("stage", "")), one.labels.get("endpoint", "")): one.value
        for one in samples
        if "le" not in one.labels
    }


def test_requests_are_counted_by_endpoint_and_code_with_the_time_of_each_stage(address: str) -> None:
    before = _numbers(address)
    client, endpoint = openai.OpenAI(base_url=f"{address}/v1", api_key="none"), "POST /v1/images/generations"
    client.images.generate(prompt=_PROMPT, n=2, size="128x128")
    with pytest.raises(openai.BadRequestError):
        client.images.generate(prompt=_PROMPT, n=0)
    added = {series: value - before.get(series, 0) for series, value in _numbers(address).items()}
    assert added["atelier_requests_total", "ok", endpoint] == 1
    assert added["atelier_requests_total", "invalid_value", endpoint] == 1
    assert added["atelier_request_seconds_count", "", endpoint] == 2
    assert added["atelier_images_total", "", ""] == 2
    for stage in ("encode_texts", "queue", "denoise", "decode_latents"):
        assert added["atelier_stage_seconds_count", stage, ""] == 1
    assert added["atelier_stage_seconds_sum", "denoise", ""] > added["atelier_stage_seconds_sum", "queue", ""] >= 0


def test_no_prompt_is_in_any_log(address: str) -> None:
    secret = "zyzzogeton"
    too_many_tokens, too_many_characters = secret * 1_000, secret * 4_000
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        client.images.generate(prompt=secret, size="64x64", extra_body={"num_inference_steps": 1})
        for prompt in (too_many_tokens, too_many_characters):
            with pytest.raises(openai.BadRequestError):
                client.images.generate(prompt=prompt)
    for prompt in (too_many_tokens, too_many_characters):
        with pytest.raises(InvalidParameter):
            serve.get_app_handle("atelier").generate.remote({"prompt": prompt}).result(timeout_s=60)
    logs = [file for file in Path("/tmp/ray/session_latest/logs").rglob("*") if file.is_file()]
    logged = b"".join(file.read_bytes() for file in logs)
    assert b"tokens is too long" in logged
    assert b"40000 characters" in logged
    assert secret.encode() not in logged


async def test_sixteen_concurrent_clients_get_their_own_images(address: str) -> None:
    shapes = ("circle", "square", "triangle", "star", "ring", "cross")
    colours = ("red", "blue", "green", "purple")
    asked = [
        Description(things=(Thing(colour=colours[i % 4], shape=shapes[i % 6]),), background="white")  # type: ignore[arg-type]
        for i in range(16)
    ]
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            *(
                client.images.generate(
                    prompt=f"a {one.things[0].colour} {one.things[0].shape}, white background",
                    extra_body={"seed": 100 + i},
                )
                for i, one in enumerate(asked)
            )
        )
    right = 0
    for i, (one, answer) in enumerate(zip(asked, answers, strict=True)):
        assert answer.data is not None
        assert answer.data[0].seed == 100 + i  # type: ignore[attr-defined]
        right += judge(_image(answer.data[0].b64_json), one).is_right
    assert right >= 14
