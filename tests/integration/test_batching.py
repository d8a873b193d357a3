"""Requests of independent clients share UNet calls, as `GET /metrics` shows."""

from __future__ import annotations

import asyncio

import httpx2

from tests.integration.steps import Steps

_WAIT_S = 120


async def _generate(client: httpx2.AsyncClient, **fields: object) -> httpx2.Response:
    answer = await client.post("/v1/images/generations", json={"prompt": "a red circle", **fields}, timeout=_WAIT_S)
    return answer.raise_for_status()


async def test_sixteen_requests_share_one_unet_call(address: str, steps: Steps) -> None:
    samplers = ["euler", "ddim", "dpmpp_2m", "unipc"]
    async with httpx2.AsyncClient(base_url=address) as client:
        before = await steps.shared_by(16)
        answers = await asyncio.gather(
            *(
                _generate(
                    client,
                    prompt=f"a red circle {index}",
                    seed=index,
                    size="64x64",
                    sampler=samplers[index % 4],
                    num_inference_steps=60 + index,
                    guidance_scale=2 + index / 2,
                )
                for index in range(16)
            )
        )
    assert await steps.shared_by(16) - before > 20
    assert [answer.json()["data"][0]["seed"] for answer in answers] == list(range(16))


async def test_a_late_request_joins_the_running_batch(address: str, steps: Steps) -> None:
    async with httpx2.AsyncClient(base_url=address) as client:
        done, shared = await steps.done(), await steps.shared_by(2)
        long = asyncio.create_task(_generate(client, size="160x160", num_inference_steps=150))
        await steps.wait_for(done + 5)
        await _generate(client, prompt="a blue ring", size="160x160", num_inference_steps=20)
        assert not long.done()
        await long
        assert await steps.shared_by(2) - shared == 20
        assert await steps.done() - done == 150


async def test_an_exact_request_gives_the_same_bytes_alone_and_beside_others(address: str) -> None:
    fields = {"prompt": "a green star", "seed": 3, "reproducibility": "exact", "num_inference_steps": 6}
    async with httpx2.AsyncClient(base_url=address) as client:
        alone = (await _generate(client, **fields)).json()
        others = [_generate(client, seed=seed, num_inference_steps=8, reproducibility="exact") for seed in range(5)]
        together = (await asyncio.gather(_generate(client, **fields), *others))[0].json()
    assert alone["exactness_key"] == together["exactness_key"]
    assert alone["data"][0]["b64_json"] == together["data"][0]["b64_json"]
    assert alone["data"][0]["parameters"]["reproducibility"] == "exact"
