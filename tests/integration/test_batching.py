"""Clients who know nothing of each other share UNet calls; `GET /metrics` tells."""

from __future__ import annotations

import asyncio

import httpx2
from prometheus_client.parser import text_string_to_metric_families

_WAIT_S = 120


class _Steps:
    """Steps of the engine by how many requests shared them, since a moment."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._before: dict[float, float] = {}

    async def begin(self) -> None:
        self._before = await self._cumulative()

    async def shared_by(self, num_requests: int) -> float:
        now = await self._cumulative()
        return self._since(now, num_requests) - self._since(now, num_requests - 1)

    async def total(self) -> float:
        return self._since(await self._cumulative(), float("inf"))

    def _since(self, now: dict[float, float], num_requests: float) -> float:
        return now.get(num_requests, 0) - self._before.get(num_requests, 0)

    async def _cumulative(self) -> dict[float, float]:
        answer = await self._client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == "atelier_denoiser_step_requests_bucket"
        }


async def _generate(client: httpx2.AsyncClient, **fields: object) -> httpx2.Response:
    answer = await client.post("/v1/images/generations", json={"prompt": "a red circle", **fields}, timeout=_WAIT_S)
    return answer.raise_for_status()


async def test_sixteen_requests_share_one_unet_call(address: str) -> None:
    samplers = ["euler", "ddim", "dpmpp_2m", "unipc"]
    async with httpx2.AsyncClient(base_url=address) as client:
        steps = _Steps(client)
        await steps.begin()
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
        assert await steps.shared_by(16) > 20
    assert [answer.json()["data"][0]["seed"] for answer in answers] == list(range(16))


async def test_a_late_request_joins_the_running_batch(address: str) -> None:
    async with httpx2.AsyncClient(base_url=address) as client:
        steps = _Steps(client)
        await steps.begin()
        long = asyncio.create_task(_generate(client, size="160x160", num_inference_steps=150))
        while await steps.total() < 5:
            await asyncio.sleep(0.01)
        await _generate(client, prompt="a blue ring", size="160x160", num_inference_steps=20)
        assert not long.done()
        await long
        assert await steps.shared_by(2) == 20
        assert await steps.total() == 150


async def test_an_exact_request_is_the_same_bytes_alone_and_in_company(address: str) -> None:
    fields = {"prompt": "a green star", "seed": 3, "reproducibility": "exact", "num_inference_steps": 6}
    async with httpx2.AsyncClient(base_url=address) as client:
        alone = (await _generate(client, **fields)).json()
        company = [_generate(client, seed=seed, num_inference_steps=8, reproducibility="exact") for seed in range(5)]
        together = (await asyncio.gather(_generate(client, **fields), *company))[0].json()
    assert alone["exactness_key"] == together["exactness_key"]
    assert alone["data"][0]["b64_json"] == together["data"][0]["b64_json"]
    assert alone["data"][0]["parameters"]["reproducibility"] == "exact"
