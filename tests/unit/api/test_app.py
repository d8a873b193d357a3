from __future__ import annotations

from importlib.metadata import version

import anyio
import httpx2
import pytest

_ERRORS = {"400", "404", "408", "413", "415", "429", "500", "501", "503", "504"}


async def test_the_document_names_the_server_and_its_version(http: httpx2.AsyncClient) -> None:
    info = (await http.get("/openapi.json")).json()["info"]
    assert (info["title"], info["version"]) == ("Atelier", version("atelier"))
    assert "OpenAI's images API" in info["description"]


async def test_every_built_route_is_in_the_document(http: httpx2.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert routes == {
        "GET /",
        "GET /health",
        "GET /ready",
        "GET /metrics",
        "GET /gpu/status",
        "GET /api/services/status",
        "GET /api/system/info",
        "GET /loras",
        "GET /v1/loras",
        "GET /v1/loras/{lora_id}",
        "GET /v1/loras/{lora_id}/preview",
        "GET /v1/models",
        "GET /v1/models/{model_id}",
        "DELETE /v1/models/{model_id}",
        "POST /v1/images/generations",
        "POST /v1/images/edits",
        "POST /v1/images/variations",
        "POST /v1/images/annotate",
        "POST /v1/images/upscale",
        "POST /v1/images/inspect",
        "GET /v1/images/files/{name}",
        "GET /v1/jobs",
        "POST /v1/jobs",
        "GET /v1/jobs/{job_id}",
        "DELETE /v1/jobs/{job_id}",
        "GET /v1/jobs/{job_id}/events",
        "GET /v1/jobs/{job_id}/files/{name}",
        "GET /v1/batches/{batch_id}",
        "DELETE /v1/batches/{batch_id}",
        "GET /v1/batches/{batch_id}/sheet",
        "POST /generate",
        "GET /status/{job_id}",
        "GET /image/{job_id}",
        "POST /generate-image",
        "GET /models",
        "DELETE /v1/data",
        "GET /v1/hub/search",
        "POST /v1/hub/download",
        "GET /v1/hub/installed",
        "DELETE /v1/hub/installed/{id}",
        "POST /v1/models/{model_id}/load",
        "POST /v1/models/{model_id}/unload",
        "GET /api/cache/stats",
        "POST /api/cache/clear",
        "POST /enhance-media",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/images/variations",
        "/v1/images/annotate",
        "/v1/images/upscale",
        "/v1/images/inspect",
        "/enhance-media",
    ],
)
async def test_routes_that_read_a_body_document_their_errors(http: httpx2.AsyncClient, path: str) -> None:
    responses = (await http.get("/openapi.json")).json()["paths"][path]["post"]["responses"]
    assert responses.keys() == {"200", *_ERRORS}
    for status in _ERRORS:
        schema = responses[status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorResponse"}


@pytest.mark.parametrize("name", ["generations", "edits", "variations"])
async def test_streams_are_documented(http: httpx2.AsyncClient, name: str) -> None:
    responses = (await http.get("/openapi.json")).json()["paths"][f"/v1/images/{name}"]["post"]["responses"]
    content = responses["200"]["content"]
    files = {"image/png", "image/jpeg", "image/webp", "application/zip"}
    assert content.keys() == {"application/json", "text/event-stream", *files}
    assert content["text/event-stream"]["itemSchema"]["required"] == ["event", "data"]


async def test_the_documentation_is_at_docs_only(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/docs")).status_code == 200
    assert (await http.get("/redoc")).status_code == 404


async def test_the_documentation_shows_the_request(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    fields = document["components"]["schemas"]["ImagesGenerateRequest"]["properties"]
    assert {"prompt", "n", "size", "seed", "guidance_scale", "response_format"} <= set(fields)


@pytest.mark.parametrize(
    ("path", "media_types"),
    [
        ("/v1/images/generations", {"application/json"}),
        ("/v1/images/edits", {"application/json", "multipart/form-data"}),
        ("/v1/images/variations", {"application/json", "multipart/form-data"}),
        ("/v1/images/annotate", {"application/json", "multipart/form-data"}),
        ("/v1/images/upscale", {"application/json", "multipart/form-data"}),
        ("/v1/images/inspect", {"application/json", "multipart/form-data"}),
        ("/enhance-media", {"application/json"}),
    ],
)
async def test_bodies_are_documented_as_they_are_read(
    http: httpx2.AsyncClient, path: str, media_types: set[str]
) -> None:
    body = (await http.get("/openapi.json")).json()["paths"][path]["post"]["requestBody"]
    assert body["required"]
    assert body["content"].keys() == media_types


async def test_the_document_says_that_a_null_is_an_absent_field(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for schema in ("ImagesGenerateRequest", "ImagesEditRequestForm"):
        body = document["components"]["schemas"][schema]
        for name, field in body["properties"].items():
            assert ({"type": "null"} in field.get("anyOf", [])) == (name not in body["required"]), name


@pytest.mark.parametrize("kind", ["ImagesEditRequestForm", "ImagesVariationRequestForm"])
async def test_forms_do_not_offer_an_image_under_our_name(http: httpx2.AsyncClient, kind: str) -> None:
    fields = (await http.get("/openapi.json")).json()["components"]["schemas"][kind]["properties"]
    assert "image" in fields
    assert "init_image" not in fields


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/", None, 200),
        ("/ready", None, 200),
        ("/v1/images/files/none.png", None, 404),
        ("/v1/images/generations", {}, 400),
    ],
)
async def test_no_dependency_of_a_route_runs_in_a_thread(
    http: httpx2.AsyncClient, path: str, body: object, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread for each of 2,000 requests takes most of the Router's time."""
    monkeypatch.delattr(anyio.to_thread, "run_sync")
    answer = await (http.get(path) if body is None else http.post(path, json=body))
    assert answer.status_code == status, answer.text
