"""Bringing a model into memory and taking it out, over HTTP."""

from __future__ import annotations

import httpx2

from tests.stages import RecordingStages


async def test_an_unloaded_model_is_in_no_replica_and_comes_back(
    http: httpx2.AsyncClient, stages: RecordingStages
) -> None:
    unloaded = await http.post("/v1/models/small-sdxl/unload")
    assert unloaded.json() == {"model": "small-sdxl", "replicas": 3, "holding": 0}
    assert (await stages.status()).models == ()
    loaded = await http.post("/v1/models/small-sdxl/load")
    assert loaded.json() == {"model": "small-sdxl", "replicas": 3, "holding": 3}
    assert (await stages.status()).models == ("small-sdxl",)


async def test_an_unloaded_model_serves_the_next_request(http: httpx2.AsyncClient) -> None:
    request = {"prompt": "a red circle", "seed": 1, "reproducibility": "exact"}
    before = (await http.post("/v1/images/generations", json=request)).json()
    await http.post("/v1/models/small-sdxl/unload")
    after = (await http.post("/v1/images/generations", json=request)).json()
    assert after["data"][0]["b64_json"] == before["data"][0]["b64_json"]


async def test_an_alias_names_the_model(http: httpx2.AsyncClient) -> None:
    assert (await http.post("/v1/models/dall-e-3/load")).json()["model"] == "small-sdxl"


async def test_unknown_models_are_not_found(http: httpx2.AsyncClient) -> None:
    for action in ("load", "unload"):
        answer = await http.post(f"/v1/models/a/b/{action}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"


async def test_other_methods_are_refused_with_the_one_that_is_allowed(http: httpx2.AsyncClient) -> None:
    for action in ("load", "unload"):
        answer = await http.get(f"/v1/models/small-sdxl/{action}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
