from __future__ import annotations

import re

import httpx2
import pytest

from atelier.api.native.unbuilt import UNBUILT, Unbuilt

_INSTEAD = {
    "POST /magic-prompt": "as it should be drawn",
    "GET /api/rate-limit/stats": "GET /metrics",
}


def test_each_route_has_its_row() -> None:
    assert [f"{route.method} {route.path}" for route in UNBUILT] == list(_INSTEAD)


@pytest.mark.parametrize("route", UNBUILT, ids=lambda route: f"{route.method} {route.path}")
async def test_a_route_that_is_not_built_says_what_to_use_instead(http: httpx2.AsyncClient, route: Unbuilt) -> None:
    answer = await http.request(route.method, route.path.format(job_id="job_1"))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (501, "not_supported_error", "not_supported")
    assert answer.headers["x-should-retry"] == "false"
    assert re.fullmatch(r"[A-Z][^.]* (is|are) not supported[^.]*\.", error["message"])
    assert _INSTEAD[f"{route.method} {route.path}"] in error["message"]


async def test_routes_that_are_named_instead_exist(http: httpx2.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    for route in UNBUILT:
        for method, path in re.findall(r"(GET|POST) (/[\w/{}]*)", route.message):
            assert method.lower() in paths[path]
