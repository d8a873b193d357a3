"""The documentation page loads everything from this server, also below a route prefix."""

from __future__ import annotations

import re

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp


@pytest.mark.parametrize("prefix", ["", "/sdxl"])
async def test_the_page_and_all_that_it_loads_come_from_this_server(app: ASGIApp, prefix: str) -> None:
    served = Starlette(routes=[Mount(prefix, app)])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(served), base_url="http://test") as http:
        page = await http.get(f"{prefix}/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        links = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)
        types = {}
        for target in map("".join, links):
            assert "//" not in target
            answer = await http.get(str(page.url.join(target)))
            assert answer.status_code == 200, target
            types[target.rpartition("/")[2]] = answer.headers["content-type"].partition(";")[0]
    assert types == {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon.png": "image/png",
        "openapi.json": "application/json",
    }


async def test_the_page_has_no_other_address(http: httpx2.AsyncClient) -> None:
    """A script on the page cannot load what no address names."""
    assert re.findall(r"\w+://", (await http.get("/docs")).text) == []


@pytest.mark.parametrize("name", ["nothing.js", "..%2fcore.py", "%2e%2e", "a%00b"])
async def test_other_files_are_not_found(http: httpx2.AsyncClient, name: str) -> None:
    answer = await http.get(f"/docs/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_browser_that_has_the_script_does_not_load_it_again(http: httpx2.AsyncClient) -> None:
    first = await http.get("/docs/swagger-ui.css")
    again = await http.get("/docs/swagger-ui.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
