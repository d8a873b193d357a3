"""The OpenAPI document is valid, names its schemas, and shows what is built."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2
import pytest
import schemathesis

from atelier.api.native.unbuilt import UNBUILT


@pytest.fixture
async def document(http: httpx2.AsyncClient) -> dict[str, Any]:
    described: dict[str, Any] = (await http.get("/openapi.json")).json()
    return described


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.2.0"
    schemathesis.openapi.from_dict(document).validate()


def test_every_reference_has_a_target_and_every_schema_is_used(document: dict[str, Any]) -> None:
    referred = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert referred == set(document["components"]["schemas"])
    assert "$defs" not in json.dumps(document)


def test_bodies_are_named_after_their_classes(document: dict[str, Any]) -> None:
    names = {
        (path, media_type): body["schema"]
        for path, methods in document["paths"].items()
        for media_type, body in methods.get("post", {}).get("requestBody", {}).get("content", {}).items()
    }
    kinds = {
        "/v1/images/edits": "ImagesEditRequest",
        "/v1/images/variations": "ImagesVariationRequest",
        "/v1/images/annotate": "AnnotateParams",
        "/v1/images/upscale": "UpscaleParams",
        "/v1/images/inspect": "InspectParams",
    }
    expected = {(path, "application/json"): kind for path, kind in kinds.items()}
    expected |= {(path, "multipart/form-data"): f"{kind}Form" for path, kind in kinds.items()}
    expected[("/v1/images/generations", "application/json")] = "ImagesGenerateRequest"
    expected[("/enhance-media", "application/json")] = "EnhanceParams"
    expected |= {
        ("/generate", "application/json"): "SimpleParams",
        ("/generate-image", "application/json"): "SimpleImageParams",
        ("/api/cache/clear", "application/json"): "ClearCacheParams",
        ("/v1/hub/download", "application/json"): "DownloadParams",
    }
    one, grid, listed = names.pop(("/v1/jobs", "application/json"))["anyOf"]
    assert (one, grid) == tuple({"$ref": f"#/components/schemas/{name}"} for name in ("JobRequest", "GridRequest"))
    assert (listed["type"], listed["maxItems"], listed["items"]) == ("array", 100, one)
    assert names == {key: {"$ref": f"#/components/schemas/{name}"} for key, name in expected.items()}


def test_objects_in_bodies_are_components(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["ImagesEditRequest"]["properties"]
    assert fields["controls"]["anyOf"][0] == {
        "type": "array",
        "maxItems": 4,
        "items": {"$ref": "#/components/schemas/ControlParams"},
    }
    for name, kind in (("hires", "HiresStep"), ("upscale", "UpscaleStep")):
        assert fields[name]["anyOf"] == [{"$ref": f"#/components/schemas/{kind}"}, {"type": "null"}]
    assert {"$ref": "#/components/schemas/ImageReference"} in fields["mask"]["anyOf"]


def test_a_key_is_optional_and_declared_as_ignored(document: dict[str, Any]) -> None:
    key = document["components"]["securitySchemes"]["key"]
    assert (key["type"], key["scheme"]) == ("http", "bearer")
    assert "ignores it" in key["description"]
    assert document["security"] == [{}, {"key": []}]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-anything"}, {"authorization": "Basic ??"}])
async def test_any_key_is_accepted(http: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    assert (await http.get("/v1/models", headers=headers)).status_code == 200


def test_routes_that_are_not_built_are_not_in_the_document(document: dict[str, Any]) -> None:
    assert not {route.path for route in UNBUILT} & set(document["paths"])


def test_no_route_documents_an_answer_that_it_never_gives(document: dict[str, Any]) -> None:
    answers = {
        status
        for methods in document["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
    }
    assert "422" not in answers
