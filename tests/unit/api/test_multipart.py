"""Multipart forms parsed without a server, so that they may exceed the body limit of the other tests."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2
import pytest
from starlette.requests import Request
from starlette.types import Message

from atelier.api.multipart import form_fields, form_or_json_fields, is_form
from atelier.api.openai.schemas import ImagesEditRequest
from atelier.core.errors import MalformedBody, UnsupportedMediaType

_IMAGE_LIST = frozenset({"image"})


def _request(body: bytes, content_type: str | None) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    # With `app` in the scope, as in an application, Starlette raises an HTTPException for a broken form.
    return Request({"type": "http", "method": "POST", "headers": headers, "app": None}, receive)


async def _fields(*parts: tuple[str, str | bytes], lists: frozenset[str] = frozenset()) -> Mapping[str, object]:
    """The fields that are read from a form of these parts; parts of bytes are sent as uploads."""
    files = [(name, (None, value) if isinstance(value, str) else ("file", value)) for name, value in parts]
    form = httpx2.Request("POST", "http://test", files=files)
    return await form_fields(_request(form.read(), form.headers["content-type"]), ImagesEditRequest, lists=lists)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=x", True),
        ("Multipart/Form-Data", True),
        ("application/json", False),
        ("text/plain; multipart/form-data", False),
        (None, False),
    ],
)
def test_a_form_is_declared_by_its_content_type(content_type: str | None, expected: bool) -> None:
    assert is_form(_request(b"", content_type)) is expected


async def test_a_route_reads_json_as_well() -> None:
    request = _request(b'{"image": ["QUI="], "n": 2}', "application/json")
    assert await form_or_json_fields(request, ImagesEditRequest) == {"image": ["QUI="], "n": 2}


@pytest.mark.parametrize(("content_type", "shown"), [("text/plain", "text/plain"), (None, "none")])
async def test_another_content_type_is_unsupported(content_type: str | None, shown: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"application/json or multipart/form-data; got {shown}"):
        await form_or_json_fields(_request(b"{}", content_type), ImagesEditRequest)


async def test_text_stays_text_where_the_field_is_text() -> None:
    texts = {"prompt": "123", "negative_prompt": "null", "sampler": "euler", "size": "64x64", "user": "[1]"}
    assert await _fields(*texts.items()) == texts


async def test_other_values_are_read_as_json() -> None:
    sent = {"n": "2", "guidance_scale": "1.5", "stream": "false", "controls": '[{"kind": "canny"}]', "seed": "null"}
    assert await _fields(*sent.items()) == {
        "n": 2,
        "guidance_scale": 1.5,
        "stream": False,
        "controls": [{"kind": "canny"}],
        "seed": None,
    }


@pytest.mark.parametrize("text", ["two", "{", "[" * 5000])
async def test_values_that_are_not_json_stay_text(text: str) -> None:
    assert await _fields(("n", text)) == {"n": text}


async def test_a_value_of_many_values_is_refused() -> None:
    with pytest.raises(MalformedBody, match="too many values"):
        await _fields(("controls", "[" + "0," * 200_000 + "0]"))


async def test_empty_fields_count_as_absent() -> None:
    assert await _fields(("n", ""), ("prompt", ""), ("size", "64x64")) == {"size": "64x64"}


async def test_an_upload_that_a_browser_left_empty_counts_as_absent() -> None:
    """Browsers send a part with an empty name; an empty file of a name is a client's mistake."""
    body = (
        b'--x\r\ncontent-disposition: form-data; name="mask"; filename=""\r\n\r\n\r\n'
        b'--x\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n\r\n--x--\r\n'
    )
    form = _request(body, "multipart/form-data; boundary=x")
    assert await form_fields(form, ImagesEditRequest, lists=frozenset()) == {"image": b""}


async def test_unknown_fields_stay_text() -> None:
    assert await _fields(("zoom", "2")) == {"zoom": "2"}


async def test_uploads_are_bytes() -> None:
    assert await _fields(("mask", b"\x00\xff"), ("prompt", b"12")) == {"mask": b"\x00\xff", "prompt": b"12"}


@pytest.mark.parametrize("names", [["image"], ["image[]"], ["image", "image"], ["image[]", "image[]"]])
async def test_a_list_may_be_repeated_with_or_without_brackets(names: list[str]) -> None:
    parts = [(name, bytes([index])) for index, name in enumerate(names)]
    assert await _fields(*parts, lists=_IMAGE_LIST) == {"image": [bytes([index]) for index in range(len(names))]}


async def test_another_field_may_not_be_repeated() -> None:
    with pytest.raises(MalformedBody, match="'seed' is sent more than once") as caught:
        await _fields(("seed", "1"), ("seed", "2"), lists=_IMAGE_LIST)
    assert caught.value.param == "seed"


async def test_an_object_may_be_sent_field_by_field() -> None:
    fields = await _fields(("upscale[scale]", "2"), ("upscale[model]", '"x4"'), ("prompt", "x"))
    assert fields == {"upscale": {"scale": 2, "model": "x4"}, "prompt": "x"}


async def test_a_list_of_objects_may_be_sent_field_by_field() -> None:
    parts: list[tuple[str, str | bytes]] = [
        ("controls[][kind]", '"canny"'),
        ("controls[][image]", b"1"),
        ("controls[][kind]", '"depth"'),
        ("controls[][image]", b"2"),
    ]
    assert await _fields(*parts) == {"controls": [{"kind": "canny", "image": b"1"}, {"kind": "depth", "image": b"2"}]}


async def test_fields_of_objects_that_are_repeated_unequally_are_malformed() -> None:
    with pytest.raises(MalformedBody, match=r"fields of controls\[\] are repeated unequally") as caught:
        await _fields(("controls[][kind]", '"canny"'), ("controls[][kind]", '"depth"'), ("controls[][scale]", "1"))
    assert caught.value.param == "controls"


@pytest.mark.parametrize(
    "names",
    [["upscale", "upscale[scale]"], ["upscale[scale]", "upscale[][scale]"], ["controls", "controls[][scale]"]],
)
async def test_a_field_in_two_forms_is_malformed(names: list[str]) -> None:
    with pytest.raises(MalformedBody, match="is sent in two ways") as caught:
        await _fields(*((name, "2") for name in names))
    assert caught.value.param == names[0].partition("[")[0]


async def test_twenty_files_and_a_hundred_fields_are_read() -> None:
    files = [("image", b"x")] * 20
    assert len((await _fields(*files, lists=_IMAGE_LIST))["image"]) == 20  # type: ignore[arg-type]
    assert len(await _fields(*((f"x{index}", "1") for index in range(100)))) == 100
    with pytest.raises(MalformedBody, match="not a readable multipart form"):
        await _fields(*files, ("image", b"x"), lists=_IMAGE_LIST)
    with pytest.raises(MalformedBody, match="not a readable multipart form"):
        await _fields(*((f"x{index}", "1") for index in range(101)))


async def test_a_field_may_be_as_large_as_the_body() -> None:
    """A control map in `controls` is a large field."""
    assert await _fields(("prompt", "x" * 3_000_000)) == {"prompt": "x" * 3_000_000}


async def test_an_unreadable_charset_is_a_malformed_body() -> None:
    body = '--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\u00e9\r\n--x--\r\n'.encode()
    request = _request(body, "multipart/form-data; boundary=x; charset=undefined")
    with pytest.raises(MalformedBody):
        await form_fields(request, ImagesEditRequest, lists=frozenset())
