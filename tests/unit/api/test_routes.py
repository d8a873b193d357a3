"""Every other address: models, health, capabilities, documentation, what is not there."""

from __future__ import annotations

import httpx2
import pytest

from atelier.api.native.unbuilt import UNBUILT
from atelier.core.params import GenerateParams


async def test_models_are_listed_and_found(http: httpx2.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["tiny-sdxl"]
    assert (await http.get("/v1/models/tiny-sdxl")).json() == listed["data"][0]


async def test_an_unknown_model_with_a_slash_is_named(http: httpx2.AsyncClient) -> None:
    response = await http.get("/v1/models/stabilityai/unknown")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert "stabilityai/unknown" in error["message"]
    assert "tiny-sdxl" in error["message"]


async def test_health_and_readiness(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    assert (await http.get("/ready")).json() == {"status": "ok"}


async def test_the_front_page_tells_what_the_server_can_do(http: httpx2.AsyncClient) -> None:
    capabilities = (await http.get("/")).json()
    assert capabilities["models"][0]["default_size"] == "128x128"
    assert set(GenerateParams.model_fields) | {"quality", "style"} <= set(capabilities["parameters"])


@pytest.mark.parametrize("unbuilt", UNBUILT, ids=lambda unbuilt: unbuilt.path)
async def test_what_is_not_built_answers_501(http: httpx2.AsyncClient, unbuilt: tuple[str, str, str]) -> None:
    method, path, _ = unbuilt
    response = await http.request(method, path.replace("{job_id}", "job_1"))
    assert (response.status_code, response.json()["error"]["type"]) == (501, "not_supported_error")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/images/generations", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/health", "GET"),
        ("POST", "/v1/models/tiny-sdxl", "DELETE, GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    http: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await http.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert allowed in response.json()["error"]["message"]


async def test_nothing_at_an_address_is_404_in_openais_shape(http: httpx2.AsyncClient) -> None:
    response = await http.get("/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_the_documentation_shows_the_request(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/docs")).status_code == 200
    document = (await http.get("/openapi.json")).json()
    body = document["paths"]["/v1/images/generations"]["post"]["requestBody"]
    fields = body["content"]["application/json"]["schema"]["properties"]
    assert {"prompt", "n", "size", "seed", "guidance_scale", "response_format"} <= set(fields)


async def test_the_document_says_that_a_null_is_an_absent_field(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for path, media_type in (("generations", "application/json"), ("edits", "multipart/form-data")):
        body = document["paths"][f"/v1/images/{path}"]["post"]["requestBody"]["content"][media_type]["schema"]
        for name, field in body["properties"].items():
            assert ({"type": "null"} in field.get("anyOf", [])) == (name not in body["required"]), name
