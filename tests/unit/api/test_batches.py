"""Lists and grids of jobs, and their contact sheets."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.types import ASGIApp

from atelier.stores.blobs import BlobStore
from tests.pictures import pixels_of
from tests.unit.api.job_server import MAX_QUEUED, JobServer

_JOBS = "/v1/jobs"
_INPUT = {"prompt": "x", "size": "64x32", "num_inference_steps": 4, "seed": 3}
_ONE = {"operation": "generate", "input": _INPUT}
_GRID = {
    **_ONE,
    "grid": {
        "x": {"field": "guidance_scale", "values": [1, 4, 8]},
        "y": {"field": "seed", "values": [3, 4]},
    },
}
_WAIT_S = 30.0

Batch = dict[str, Any]


@pytest.fixture
def app(server: JobServer, blobs: BlobStore) -> ASGIApp:
    return server.app(blobs)


async def _handed_in(http: httpx2.AsyncClient, body: object, **headers: str) -> Batch:
    answer = await http.post(_JOBS, json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    batch: Batch = answer.json()
    assert answer.headers["location"] == batch["status_url"]
    return batch


async def _ended(http: httpx2.AsyncClient, batch: Batch) -> Batch:
    async with asyncio.timeout(_WAIT_S):
        for job in batch["jobs"]:
            await http.get(job["events_url"])
    ended: Batch = (await http.get(batch["status_url"])).json()
    return ended


async def test_a_list_of_jobs_is_a_batch(http: httpx2.AsyncClient, server: JobServer) -> None:
    large = {**_ONE, "input": {**_INPUT, "size": "64x64"}}
    batch = await _handed_in(http, [_ONE, large, {**_ONE, "rank": 7}])
    assert (batch["object"], batch["states"], [job["rank"] for job in batch["jobs"]]) == (
        "batch",
        {"queued": 3},
        [0, 0, 7],
    )
    async with server.working():
        ended = await _ended(http, batch)
    assert ended["states"] == {"succeeded": 3}
    assert [job["result"]["size"] for job in ended["jobs"]] == ["64x32", "64x64", "64x32"]
    assert {job["batch"] for job in ended["jobs"]} == {batch["id"]}


async def test_a_grid_makes_every_combination(http: httpx2.AsyncClient, server: JobServer) -> None:
    batch = await _handed_in(http, _GRID)
    async with server.working():
        ended = await _ended(http, batch)
    made = [job["result"]["data"][0]["parameters"] for job in ended["jobs"]]
    assert [(one["seed"], one["guidance_scale"]) for one in made] == [
        (seed, scale) for seed in (3, 4) for scale in (1, 4, 8)
    ]
    sheet_file = await http.get(batch["sheet_url"])
    assert sheet_file.headers["content-type"] == "image/png"
    sheet = pixels_of(sheet_file.content)
    for job in ended["jobs"]:
        image = pixels_of((await http.get(job["result"]["data"][0]["url"])).content)
        places = np.lib.stride_tricks.sliding_window_view(sheet, image.shape)[:, :, 0]
        found = np.argwhere((places[:, :, 0, 0] == image[0, 0]).all(axis=-1))
        assert any(np.array_equal(places[top, left], image) for top, left in found), "each image is on the sheet"


async def test_pages_and_labels_are_on_the_sheet(http: httpx2.AsyncClient, server: JobServer) -> None:
    grid = {"z": {"field": "sampler", "values": ["euler", "ddim"]}}
    batch = await _handed_in(http, {**_ONE, "grid": grid})
    async with server.working():
        await _ended(http, batch)
    labelled = pixels_of((await http.get(batch["sheet_url"])).content)
    plain = pixels_of((await http.get((await _handed_in(http, [_ONE, _ONE]))["sheet_url"])).content)
    assert labelled.shape[0] > labelled.shape[1], "pages lie one below the other"
    ink = (labelled[:20] < 128).any()
    assert ink, "the first page has its label"
    assert not (plain[:20] < 128).any(), "a list has no labels"


async def test_a_sheet_says_what_is_not_there(http: httpx2.AsyncClient) -> None:
    batch = await _handed_in(http, [_ONE, _ONE])
    waiting = pixels_of((await http.get(batch["sheet_url"])).content)
    await http.delete(batch["status_url"])
    cancelled = pixels_of((await http.get(batch["sheet_url"])).content)
    assert (waiting < 128).any()
    assert not np.array_equal(waiting, cancelled)


async def test_a_batch_is_cancelled_as_a_whole(http: httpx2.AsyncClient) -> None:
    batch = await _handed_in(http, [_ONE, _ONE])
    assert (await http.delete(batch["status_url"])).json()["states"] == {"cancelled": 2}


async def test_a_batch_with_a_key_is_handed_in_once(http: httpx2.AsyncClient) -> None:
    first, again = [await _handed_in(http, _GRID, **{"idempotency-key": "grid-1"}) for _ in range(2)]
    assert [job["id"] for job in again["jobs"]] == [job["id"] for job in first["jobs"]]
    other = await http.post(_JOBS, json=[_ONE], headers={"idempotency-key": "grid-1"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


def _grid(**axes: object) -> object:
    return {**_ONE, "grid": axes}


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ([], "invalid_body", None),
        ([_ONE] * 101, "invalid_body", None),
        ([_ONE, 7], "invalid_body", "[1]"),
        ([_ONE, {**_ONE, "rank": 101}], "invalid_value", "[1].rank"),
        ([_ONE, {**_ONE, "input": {**_INPUT, "size": "7x7"}}], "invalid_value", "[1].input.size"),
        ([_ONE, {**_ONE, "input": {**_INPUT, "colour": "red"}}], "unknown_parameter", "[1].input.colour"),
        (_grid(), "invalid_value", "grid"),
        (_grid(x={"field": "seed", "values": []}), "invalid_value", "grid.x.values"),
        (_grid(x={"field": "colour", "values": [1]}), "unknown_parameter", "input.colour"),
        (_grid(x={"field": "seed", "values": ["a"]}), "invalid_value", "input.seed"),
        (_grid(a={"field": "seed", "values": [1]}), "unknown_parameter", "grid.a"),
        (
            _grid(x={"field": "seed", "values": [1]}, y={"field": "seed", "values": [1]}),
            "invalid_value",
            "grid",
        ),
        (
            _grid(x={"field": "seed", "values": [*range(11)]}, y={"field": "n", "values": [*range(1, 11)]}),
            "invalid_value",
            "grid",
        ),
    ],
)
async def test_a_wrong_batch_is_refused_whole(
    http: httpx2.AsyncClient, body: object, code: str, param: str | None
) -> None:
    answer = await http.post(_JOBS, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error["message"]
    assert (await http.get(_JOBS)).json()["data"] == []


async def test_a_batch_that_does_not_fit_is_refused_whole(http: httpx2.AsyncClient) -> None:
    full = await http.post(_JOBS, json=[_ONE] * (MAX_QUEUED + 1))
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert (await http.get(_JOBS)).json()["data"] == []


async def test_a_batch_that_is_not_there_is_said_so(http: httpx2.AsyncClient) -> None:
    for path in ("/v1/batches/batch_0", "/v1/batches/batch_0/sheet"):
        assert (await http.get(path)).status_code == 404
