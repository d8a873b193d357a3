"""Durable jobs on a running graph: what is killed meanwhile costs no job, and `exact` ones no bit."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image
from standardwebhooks import Webhook
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.integration.conftest import WEBHOOK_SECRET, Graph
from tests.integration.replicas import kill, until_replaced
from tests.integration.steps import Steps
from tests.receiver import receiving
from zoo.judge import judge
from zoo.scenes import Description, Thing

pytestmark = pytest.mark.slow

_JOBS, _GENERATIONS = "/v1/jobs", "/v1/images/generations"
_RED_CIRCLE = Description(things=(Thing(colour="red", shape="circle"),), background="white")
_PROMPT = "a red circle, white background"
_EXACT = {"prompt": _PROMPT, "seed": 3, "num_inference_steps": 60, "size": "160x160", "reproducibility": "exact"}
_WAIT_S = 120


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=address, timeout=_WAIT_S) as client:
        yield client


async def _handed_in(http: httpx2.AsyncClient, fields: dict[str, Any]) -> str:
    answer = await http.post(_JOBS, json={"operation": "generate", "input": fields})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


async def _ended(http: httpx2.AsyncClient, job_id: str) -> dict[str, Any]:
    """Ask until a job has ended; a Router that is being replaced answers with an error."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            answer = await http.get(f"{_JOBS}/{job_id}")
            if answer.status_code == 200 and (job := answer.json())["state"] not in ("queued", "running"):
                assert job["state"] == "succeeded", job
                found: dict[str, Any] = job
                return found
            await asyncio.sleep(0.2)


async def _file(http: httpx2.AsyncClient, job: dict[str, Any]) -> bytes:
    [image] = job["result"]["data"]
    return (await http.get(image["url"])).raise_for_status().content


async def test_a_job_is_done_while_its_client_is_away(http: httpx2.AsyncClient) -> None:
    job_id = await _handed_in(http, {"prompt": _PROMPT, "seed": 3})
    events = (await http.get(f"{_JOBS}/{job_id}/events")).text.strip().split("\n\n")
    states = [json.loads(one.split("data: ")[1])["state"] for one in events if "event: state" in one]
    assert states == ["queued", "running", "succeeded"]
    image = Image.open(io.BytesIO(await _file(http, await _ended(http, job_id))))
    assert judge(image, _RED_CIRCLE).is_right


@pytest.mark.parametrize(
    "deployment",
    ["Worker", pytest.param("Router", marks=pytest.mark.long), pytest.param("Denoiser", marks=pytest.mark.long)],
)
async def test_a_job_survives_what_it_needs(http: httpx2.AsyncClient, steps: Steps, deployment: str) -> None:
    direct = await http.post(_GENERATIONS, json=_EXACT)
    before = await steps.until_idle()
    job_id = await _handed_in(http, _EXACT)
    await steps.wait_for(before + 20)
    lost = kill(deployment)
    await until_replaced(lost, deployment)
    job = await _ended(http, job_id)
    assert await _file(http, job) == base64.b64decode(direct.json()["data"][0]["b64_json"])
    assert job["attempts"] == (2 if deployment == "Worker" else 1)


async def test_a_running_job_is_cancelled(http: httpx2.AsyncClient, steps: Steps) -> None:
    before = await steps.until_idle()
    job_id = await _handed_in(http, {**_EXACT, "num_inference_steps": 150, "size": "256x256"})
    await steps.wait_for(before + 5)
    await http.delete(f"{_JOBS}/{job_id}")
    assert await steps.until_idle() < before + 150
    events = (await http.get(f"{_JOBS}/{job_id}/events")).text
    assert '"state": "cancelled"' in events


async def _states(connection: ClientConnection) -> list[tuple[int, str]]:
    messages = [json.loads(message) async for message in connection]
    assert messages[-1]["type"] == "job"
    return [(message["number"], message["state"]) for message in messages if message["type"] == "state"]


@pytest.mark.parametrize("is_router_lost", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_a_watcher_that_comes_back_has_seen_every_state(
    http: httpx2.AsyncClient, address: str, is_router_lost: bool
) -> None:
    job_id = await _handed_in(http, {**_EXACT, "seed": 4})
    url = f"{address.replace('http', 'ws')}/ws/jobs/{job_id}"
    async with connect(url, proxy=None) as watching:
        first = json.loads(await watching.recv())
        if is_router_lost:
            lost = kill("Router")
            with pytest.raises(ConnectionClosed):
                await _states(watching)
            await until_replaced(lost, "Router")
        else:
            watching.transport.abort()
    async with connect(f"{url}?after={first['number']}", proxy=None, open_timeout=_WAIT_S) as again:
        states = await _states(again)
    assert [(first["number"], first["state"]), *states] == [(1, "queued"), (2, "running"), (3, "succeeded")]


@pytest.fixture
def cached(deployed: Graph) -> Iterator[None]:
    """Let the graph keep results during one test."""
    deployed.max_cache_bytes = 10_000_000
    deployed.deploy()
    yield
    deployed.max_cache_bytes = 0
    deployed.deploy()


@pytest.mark.usefixtures("cached")
async def test_an_equal_request_and_an_equal_job_are_not_made_again(http: httpx2.AsyncClient, steps: Steps) -> None:
    asked = {"prompt": _PROMPT, "seed": 11}
    first = (await http.post(_GENERATIONS, json=asked)).json()
    before = await steps.until_idle()
    again = (await http.post(_GENERATIONS, json=asked)).json()
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["data"] == first["data"]
    job = await _ended(http, await _handed_in(http, asked))
    assert await _file(http, job) == base64.b64decode(first["data"][0]["b64_json"])
    assert job["result"]["cached"]
    assert re.search(
        r"^atelier_cached_requests_total\S* 1\.0$", (await http.get("/metrics")).text, flags=re.MULTILINE
    )
    assert await steps.until_idle() == before


async def test_the_webhook_of_a_job_is_delivered(http: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        body = {"operation": "generate", "input": {"prompt": _PROMPT, "seed": 3}, "webhook": receiver.url}
        job_id = (await http.post(_JOBS, json=body)).json()["id"]
        await _ended(http, job_id)
        async with asyncio.timeout(_WAIT_S):
            while not receiver.received:
                await asyncio.sleep(0.1)
    [received] = receiver.received
    message = Webhook(WEBHOOK_SECRET).verify(received.body, dict(received.headers))
    assert (message["type"], message["data"]["id"]) == ("job.succeeded", job_id)
    file = (await http.get(message["data"]["result"]["data"][0]["url"])).raise_for_status().content
    assert judge(Image.open(io.BytesIO(file)), _RED_CIRCLE).is_right
