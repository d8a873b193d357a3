"""Jobs watched live, through a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from sqlalchemy import text
from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from atelier.core.jobs import NewJob
from atelier.stores.blobs import BlobStore
from tests.pictures import decoded
from tests.stages import RecordingStages
from tests.unit.api.job_server import JobServer

_GENERATE = {"operation": "generate", "input": {"prompt": "x", "size": "64x32", "num_inference_steps": 4}}
_WAIT_S = 30.0

Message = dict[str, Any]


@pytest.fixture
def app(server: JobServer, blobs: BlobStore) -> ASGIApp:
    return server.app(blobs)


@pytest.fixture
async def host(app: ASGIApp) -> AsyncIterator[str]:
    """Host and port of a server in this event loop."""
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="websockets-sansio")
    serving = uvicorn.Server(config)
    task = asyncio.create_task(serving.serve())
    async with asyncio.timeout(_WAIT_S):
        while not serving.started:  # noqa: ASYNC110 uvicorn has no event for it
            await asyncio.sleep(0.01)
    yield f"127.0.0.1:{serving.servers[0].sockets[0].getsockname()[1]}"
    serving.should_exit = True
    await task


@pytest.fixture
async def http(host: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{host}") as client:
        yield client


async def _handed_in(http: httpx2.AsyncClient, **fields: object) -> Message:
    job: Message = (await http.post("/v1/jobs", json={**_GENERATE, **fields})).raise_for_status().json()
    return job


@asynccontextmanager
async def _watching(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with asyncio.timeout(_WAIT_S), connect(url, proxy=None, **options) as connection:
        yield connection


async def _all(connection: ClientConnection) -> list[Message]:
    return [json.loads(message) async for message in connection]


def _states(messages: list[Message]) -> list[str]:
    return [message["state"] for message in messages if message["type"] == "state"]


async def test_a_watcher_sees_every_state_and_the_whole_job(
    http: httpx2.AsyncClient, host: str, server: JobServer
) -> None:
    job = await _handed_in(http)
    async with _watching(f"ws://{host}/ws/jobs/{job['id']}") as watching, server.working():
        messages = await _all(watching)
    assert _states(messages) == ["queued", "running", "succeeded"]
    assert [message["number"] for message in messages if message["type"] == "state"] == [1, 2, 3]
    last = messages[-1]
    assert last["type"] == "job"
    assert last["job"] == (await http.get(job["status_url"])).json()
    [image] = last["job"]["result"]["data"]
    assert decoded((await http.get(image["url"])).content).size == (64, 32)
    assert watching.close_code == 1000


async def test_progress_has_steps_times_and_previews(
    http: httpx2.AsyncClient, host: str, server: JobServer, stages: RecordingStages
) -> None:
    job = await _handed_in(
        http, previews=2, input={"prompt": "x", "size": "64x32", "num_inference_steps": 150, "n": 2}
    )
    # All steps may be done before the first report, which comes after a second.
    stages.may_decode.clear()
    async with _watching(f"ws://{host}/ws/jobs/{job['id']}") as watching, server.working():
        async for message in watching:
            progress = json.loads(message)
            if progress["type"] == "progress" and progress["previews"]:
                break
        assert (progress["job_id"], progress["total"]) == (job["id"], 150)
        assert 0 < progress["step"] <= 150
        assert progress["elapsed_s"] > 0
        assert progress["eta_s"] == pytest.approx(
            progress["elapsed_s"] / progress["step"] * (150 - progress["step"]), abs=0.1
        )
        assert len(progress["previews"]) == 2
        for url in progress["previews"]:
            assert decoded((await http.get(url)).content).size == (64, 32)
    assert stages.requests[0].num_previews == 2


async def test_a_watcher_that_comes_back_misses_no_state(
    http: httpx2.AsyncClient, host: str, server: JobServer
) -> None:
    job = await _handed_in(http)
    url = f"ws://{host}/ws/jobs/{job['id']}"
    async with _watching(url) as watching:
        first = json.loads(await watching.recv())
        watching.transport.abort()
    async with server.working():
        async with _watching(f"{url}?after={first['number']}") as again:
            messages = await _all(again)
        async with _watching(url) as from_the_start:
            assert _states(await _all(from_the_start)) == ["queued", "running", "succeeded"]
    assert _states(messages) == ["running", "succeeded"]


async def test_all_jobs_are_watched_at_once(http: httpx2.AsyncClient, host: str, server: JobServer) -> None:
    before = await _handed_in(http)
    async with _watching(f"ws://{host}/ws?since={before['created_at']}") as watching, server.working():
        jobs = [before, await _handed_in(http), await _handed_in(http)]
        messages, ended = list[Message](), dict[str, Message]()
        while len(ended) < len(jobs):
            messages.append(json.loads(await watching.recv()))
            if messages[-1]["type"] == "job":
                ended[messages[-1]["job"]["id"]] = messages[-1]["job"]
    for job in jobs:
        mine = [message for message in messages if message.get("job_id") == job["id"]]
        assert _states(mine) == ["queued", "running", "succeeded"]
        assert ended[job["id"]]["result"]["data"][0]["url"]


async def test_more_states_than_a_page_come_each_once(host: str, server: JobServer) -> None:
    jobs = await server.service.jobs.add([NewJob(operation="generate", params={}, work=1.0)] * 1100)
    async with _watching(f"ws://{host}/ws?since={jobs[0].created_at}") as watching:
        told = [json.loads(await watching.recv())["job_id"] for _ in jobs]
        await server.service.cancel(jobs[0].id)
        assert json.loads(await watching.recv())["state"] == "cancelled", "a state was sent twice"
    assert sorted(told) == sorted(job.id for job in jobs)


async def test_what_was_before_is_not_told_unless_asked(
    http: httpx2.AsyncClient, host: str, server: JobServer
) -> None:
    job = await _handed_in(http)
    async with server.working(), _watching(f"ws://{host}/ws/jobs/{job['id']}") as watching:
        await _all(watching)
    later = (await http.get(job["status_url"])).json()["finished_at"] + 0.001
    async with _watching(f"ws://{host}/ws?since={later}") as watching:
        new = await _handed_in(http)
        async for one in watching:
            message = json.loads(one)
            if message["job_id"] == new["id"]:
                break
            assert message["at"] > later - 6, "the feed looks back some seconds"


async def test_a_job_that_is_not_there_is_an_error(host: str) -> None:
    async with _watching(f"ws://{host}/ws/jobs/job_0") as watching:
        error = json.loads(await watching.recv())
        with pytest.raises(ConnectionClosed):
            await watching.recv()
    assert (error["type"], error["error"]["code"]) == ("error", "not_found")
    assert watching.close_code == 4404


@pytest.mark.parametrize(("origin", "is_allowed"), [("http://localhost:3000", True), ("https://evil.example", False)])
async def test_only_allowed_pages_may_watch(
    http: httpx2.AsyncClient, host: str, origin: str, is_allowed: bool
) -> None:
    job = await _handed_in(http)
    url = f"ws://{host}/ws/jobs/{job['id']}"
    if is_allowed:
        async with _watching(url, origin=origin) as watching:
            assert json.loads(await watching.recv())["state"] == "queued"
    else:
        with pytest.raises(InvalidStatus) as refused:
            async with _watching(url, origin=origin):
                pass
        assert refused.value.response.status_code == 403


async def test_a_stream_of_events_ends_with_an_error_when_the_database_fails(
    http: httpx2.AsyncClient, server: JobServer
) -> None:
    job = await _handed_in(http)
    async with asyncio.timeout(_WAIT_S), http.stream("GET", job["events_url"]) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "id: 1"
        async with server.database.writing() as connection:
            for table in ("job_events", "jobs"):
                await connection.execute(text(f"DROP TABLE {table}"))
        *_, name, data, _ = [line async for line in lines]
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "jobs_unavailable"


async def test_a_watcher_that_would_lose_states_is_told_to_come_again(
    http: httpx2.AsyncClient, host: str, server: JobServer
) -> None:
    new = NewJob(operation="generate", params={}, work=1.0)
    async with _watching(f"ws://{host}/ws") as watching:
        await _handed_in(http)
        await watching.recv()
        await server.service.jobs.add([new] * 1100)
        with pytest.raises(ConnectionClosed):
            await _all(watching)
    assert watching.close_code == 1013
