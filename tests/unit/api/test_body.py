from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.types import Message

from atelier.api.body import either_body, json_body, json_fields
from atelier.api.openai.schemas import ImagesEditRequest
from atelier.core.errors import MalformedBody, UnsupportedMediaType
from atelier.core.params import UpscaleParams


async def _fields(body: bytes, content_type: str | None = "application/json") -> object:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    return await json_fields(Request({"type": "http", "method": "POST", "headers": headers}, receive))


async def test_a_json_object_is_read() -> None:
    assert await _fields('{"prompt": "ö", "n": 2, "x": null}'.encode()) == {"prompt": "ö", "n": 2, "x": None}
    assert await _fields(b"{}") == {}


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json", "application/json ;x=y"],
)
async def test_json_has_several_content_types(content_type: str) -> None:
    assert await _fields(b"{}", content_type) == {}


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "text/json"]
)
async def test_a_content_type_that_web_pages_may_send_unasked_is_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType, match="must be application/json"):
        await _fields(b"{}", content_type)


async def test_a_body_of_many_values_is_refused_before_it_is_parsed() -> None:
    most = b'{"controls": [' + b"[]," * 99_998 + b"[]]}"
    assert await _fields(most)
    with pytest.raises(MalformedBody, match="too many values or commas; at most 200000"):
        await _fields(b'{"controls": [' + b"[]," * 100_000 + b"[]]}")


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": "\xff"}', b"[" * 50_000])
async def test_a_body_that_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="not valid JSON"):
        await _fields(body)


@pytest.mark.parametrize(("body", "kind"), [(b"[1]", "list"), (b"null", "NoneType"), (b'"x"', "str"), (b"1", "int")])
async def test_json_of_another_type_is_malformed(body: bytes, kind: str) -> None:
    with pytest.raises(MalformedBody, match=f"must be a JSON object; got {kind}"):
        await _fields(body)


def test_bodies_are_described_by_their_media_types() -> None:
    for described, media_types in (
        (json_body(UpscaleParams), ["application/json"]),
        (either_body(UpscaleParams), ["application/json", "multipart/form-data"]),
    ):
        assert described["requestBody"]["required"] is True
        assert list(described["requestBody"]["content"]) == media_types


def test_a_field_that_may_be_absent_may_be_null() -> None:
    schema = json_body(UpscaleParams)["requestBody"]["content"]["application/json"]["schema"]
    fields = schema["properties"]
    assert schema["required"] == ["image"]
    assert "anyOf" not in fields["image"]
    assert fields["scale"] == {
        "title": "Scale",
        "description": "Factor of width and height.",
        "default": 4,
        "anyOf": [{"type": "number", "minimum": 1, "maximum": 4}, {"type": "null"}],
    }
    assert fields["model"]["anyOf"] == [{"type": "string", "maxLength": 200}, {"type": "null"}]


def test_images_are_base64_in_json_and_uploads_in_forms() -> None:
    content = either_body(UpscaleParams)["requestBody"]["content"]
    in_json = content["application/json"]["schema"]["properties"]["image"]
    in_form = content["multipart/form-data"]["schema"]["properties"]["image"]
    assert (in_json["contentEncoding"], in_json["contentMediaType"]) == ("base64", "image/*")
    assert in_form["contentMediaType"] == "application/octet-stream"
    assert not {"contentEncoding", "examples"} & in_form.keys()


def test_a_form_offers_uploads_where_json_offers_references() -> None:
    content = either_body(ImagesEditRequest)["requestBody"]["content"]
    in_json = content["application/json"]["schema"]["properties"]["mask"]["anyOf"]
    in_form = content["multipart/form-data"]["schema"]["properties"]
    upload = {"type": "string", "contentMediaType": "application/octet-stream"}
    assert [option.get("title", option["type"]) for option in in_json] == ["string", "ImageReference", "null"]
    assert in_form["mask"]["anyOf"] == [upload, {"type": "null"}]
    uploads = {"type": "array", "minItems": 1, "maxItems": 16, "items": upload}
    assert in_form["image"]["anyOf"] == [upload, uploads, {"type": "null"}]
    assert in_form["hires"]["anyOf"][0] == {"$ref": "#/components/schemas/HiresStep"}
