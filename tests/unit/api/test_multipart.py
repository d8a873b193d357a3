"""Forms as they come over the wire, beyond the size that the other tests' server reads."""

from __future__ import annotations

import httpx2
import pytest
from starlette.requests import Request
from starlette.types import Message

from atelier.api.multipart import form_fields
from atelier.api.openai.schemas import ImagesEditRequest
from atelier.core.errors import MalformedBody


def _request(body: bytes, content_type: str) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def test_a_field_may_be_as_large_as_the_body() -> None:
    """A map among `controls` is one."""
    form = httpx2.Request("POST", "http://test", files={"prompt": (None, b"x" * 3_000_000)})
    fields = await form_fields(
        _request(form.read(), form.headers["content-type"]), ImagesEditRequest, lists=frozenset()
    )
    assert fields == {"prompt": "x" * 3_000_000}


async def test_an_unreadable_charset_is_a_malformed_body() -> None:
    body = '--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\u00e9\r\n--x--\r\n'.encode()
    request = _request(body, "multipart/form-data; boundary=x; charset=undefined")
    with pytest.raises(MalformedBody):
        await form_fields(request, ImagesEditRequest, lists=frozenset())
