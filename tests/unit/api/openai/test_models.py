from __future__ import annotations

import httpx2

#: The small model as listed; `created` is 2026-01-01, in seconds of Unix time.
_SMALL = {"id": "small-sdxl", "object": "model", "created": 1767225600, "owned_by": "atelier"}


async def test_models_are_listed_and_found(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/models")).json() == {"object": "list", "data": [_SMALL]}
    assert (await http.get("/v1/models/small-sdxl")).json() == _SMALL


async def test_an_unknown_model_with_a_slash_is_named(http: httpx2.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        response = await http.request(method, "/v1/models/stabilityai/unknown")
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "stabilityai/unknown" in error["message"]
        assert "small-sdxl" in error["message"]


async def test_a_model_cannot_be_deleted(http: httpx2.AsyncClient) -> None:
    response = await http.delete("/v1/models/small-sdxl")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (403, "forbidden")
    assert error["message"].startswith("small-sdxl is part of this server's catalogue")
