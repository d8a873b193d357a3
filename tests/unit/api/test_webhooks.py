"""Webhooks over HTTP: handed in with a job, seen in it, and delivered to a receiver on this machine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from standardwebhooks import Webhook
from starlette.types import ASGIApp

from atelier.api.app import build_app, webhook_fields
from atelier.core.jobs import Json, WorkerId
from atelier.jobs.receivers import Receivers
from atelier.jobs.sending import Sender
from atelier.jobs.service import JobService
from atelier.jobs.signatures import secret_of
from atelier.jobs.webhooks import Deliverer
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from tests.receiver import Receiver, receiving
from tests.unit.api.conftest import MAX_BODY_BYTES

_JOBS, _HOOK = "/v1/jobs", "https://example.org/hook"
_GENERATE = {"operation": "generate", "input": {"prompt": "x", "size": "64x32", "num_inference_steps": 4}}
_SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
_RESULT: Json = {
    "images": [{"file": "a.png", "seed": 3, "parameters": {"prompt": "x"}}],
    "control_maps": [{"file": "b.png", "kind": "canny"}],
    "output_format": "png",
    "size": "64x32",
    "upscaler": None,
}
_WAIT_S = 30.0


@dataclass
class _Server:
    """The jobs of an application, with a worker that makes nothing."""

    database: Database
    service: JobService

    async def end(self) -> None:
        """Let the next queued job succeed."""
        worker = Claims(self.database, WorkerId("one"), lease_s=15.0)
        [job] = await worker.claim(1)
        await worker.succeed(job.id, _RESULT)

    async def deliver(self, job_id: str) -> None:
        """Deliver the webhook of a job."""
        service, sender = self.service, Sender(secret_of(_SECRET), Receivers(["127.0.0.1"]))
        tasks = [
            asyncio.create_task(service.changes.watch()),
            asyncio.create_task(Deliverer(service.jobs, service.changes, sender.send, webhook_fields).run()),
        ]
        async with asyncio.timeout(_WAIT_S):
            while True:
                seen, webhook = service.changes.num_seen, await service.jobs.webhooks.get(job_id)
                assert webhook is not None
                if webhook.state != "pending" or webhook.last_error is not None:
                    break
                await service.changes.after(seen, timeout_s=_WAIT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[_Server]:
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    await database.migrate()
    files = BlobStore((tmp_path / "jobs").as_uri(), ttl=timedelta(hours=1))
    service = JobService(Jobs(database), Changes(database), files, receivers=Receivers(["127.0.0.1"]))
    yield _Server(database, service)
    await database.close()


@pytest.fixture
def app(pipeline: Pipeline, blobs: BlobStore, server: _Server) -> ASGIApp:
    return build_app(pipeline, blobs, server.service, max_body_bytes=MAX_BODY_BYTES)


async def _handed_in(http: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post(_JOBS, json={**_GENERATE, **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def _asked(http: httpx2.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"{_JOBS}/{job['id']}")).json()
    return found


async def test_an_ended_job_is_posted_as_the_client_would_read_it(http: httpx2.AsyncClient, server: _Server) -> None:
    async with receiving() as receiver:
        job = await _handed_in(http, webhook=receiver.url)
        assert job["webhook"] == {"url": receiver.url, "state": "pending", "attempts": 0}
        await server.end()
        await server.deliver(job["id"])
    [received] = receiver.received
    message = Webhook(_SECRET).verify(received.body, dict(received.headers))
    ended = await _asked(http, job)
    assert ended.pop("webhook") == {"url": receiver.url, "state": "delivered", "attempts": 1}
    assert (message["type"], message["data"]) == ("job.succeeded", ended)
    assert message["data"]["result"]["data"][0]["url"] == f"http://test{_JOBS}/{job['id']}/files/a.png"
    assert received.headers["webhook-id"] == job["id"]


async def test_urls_in_a_message_have_the_public_address(
    pipeline: Pipeline, blobs: BlobStore, server: _Server
) -> None:
    public = "https://images.example/atelier"
    app = build_app(pipeline, blobs, server.service, max_body_bytes=MAX_BODY_BYTES, public_url=f"{public}/")
    async with (
        receiving() as receiver,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http,
    ):
        job = await _handed_in(http, webhook=receiver.url)
        await server.end()
        await server.deliver(job["id"])
    assert json.loads(receiver.received[0].body)["data"]["status_url"] == f"{public}{_JOBS}/{job['id']}"


async def test_a_failed_delivery_is_seen_and_changes_no_job(http: httpx2.AsyncClient, server: _Server) -> None:
    async with receiving(Receiver([b"HTTP/1.1 410 Gone\r\ncontent-length: 6\r\n\r\nsecret"])) as receiver:
        job = await _handed_in(http, webhook=receiver.url)
        await server.end()
        await server.deliver(job["id"])
    ended = await _asked(http, job)
    assert ended["state"] == "succeeded"
    assert ended["webhook"] == {
        "url": receiver.url,
        "state": "given_up",
        "attempts": 1,
        "last_error": "answered with status 410",
    }
    assert (await http.get(_JOBS)).json()["data"] == [ended]


async def test_a_job_without_a_webhook_asks_the_database_for_none(http: httpx2.AsyncClient, server: _Server) -> None:
    job = await _handed_in(http)
    async with server.database.writing() as connection:
        await connection.execute(text("DROP TABLE webhooks"))
    assert "webhook" not in await _asked(http, job)
    await server.end()
    assert (await _asked(http, job))["state"] == "succeeded"


@pytest.mark.parametrize(
    "url",
    [
        7,
        "",
        "hook",
        "http://example.org/hook",
        "https://user:secret@example.org/hook",
        "https://10.0.0.1/hook",
        "https://[::ffff:127.0.0.1]/hook",
        f"https://example.org/{'x' * 2000}",
    ],
)
async def test_wrong_webhooks_are_refused_before_the_job_is_queued(http: httpx2.AsyncClient, url: object) -> None:
    answer = await http.post(_JOBS, json={**_GENERATE, "webhook": url})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", "webhook")
    assert error["message"].startswith("webhook: ")
    assert len(error["message"]) < 300
    assert (await http.get(_JOBS)).json()["data"] == []


async def test_a_server_without_a_secret_says_what_to_set(
    pipeline: Pipeline, blobs: BlobStore, server: _Server
) -> None:
    service = JobService(server.service.jobs, server.service.changes, server.service.files)
    app = build_app(pipeline, blobs, service, max_body_bytes=MAX_BODY_BYTES)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post(_JOBS, json={**_GENERATE, "webhook": _HOOK})
        assert (await http.get(_JOBS)).json()["data"] == []
        await _handed_in(http)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (501, "not_supported", "webhook")
    assert "ATELIER_WEBHOOK_SECRET" in error["message"]


async def test_the_same_key_with_another_webhook_is_refused(http: httpx2.AsyncClient) -> None:
    key = {"idempotency-key": "order-7"}
    for url, status in ((_HOOK, 202), (_HOOK, 202), (f"{_HOOK}2", 409)):
        answer = await http.post(_JOBS, json={**_GENERATE, "webhook": url}, headers=key)
        assert answer.status_code == status
