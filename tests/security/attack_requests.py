"""Hostile requests: small or plain to send, and once expensive to answer."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_JSON = {"content-type": "application/json"}
_GENERATIONS, _INSPECT = "/v1/images/generations", "/v1/images/inspect"
_LARGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A hostile request, and the status that it should get."""

    name: str
    path: str = _GENERATIONS
    headers: dict[str, str] = field(default_factory=lambda: _JSON)
    body: Callable[[], bytes]
    status: int = 400
    #: Number of such requests that are sent at once.
    at_once: int = 1


def _lists(num_lists: int) -> bytes:
    return b'{"prompt": "a", "controls": [' + b"[]," * num_lists + b"[]]}"


@cache
def _names() -> bytes:
    return b", ".join(b'"%d": 1' % index for index in range(2_000_000))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("L", (2048, 2048)).save(file, "JPEG", progressive=True, quality=20)
    return file.getvalue()


def _jpeg_of_scans(num_scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated; every scan is a pass over all pixels."""
    file = _jpeg()
    last = file.rindex(b"\xff\xda")
    return file[:last] + file[last:-2] * num_scans + file[-2:]


def _jpeg_of_segments(num_segments: int) -> bytes:
    """A JPEG with empty comments before its picture; Pillow reads them one by one in Python."""
    file = _jpeg()
    return file[:2] + b"\xff\xfe\x00\x02" * num_segments + file[2:]


@cache
def _webp() -> str:
    file = io.BytesIO()
    Image.new("RGBA", (_LARGE, _LARGE), (1, 2, 3, 4)).save(file, "WEBP")
    return _base64(file.getvalue())


def _images(num_controls: int) -> bytes:
    controls = [{"kind": "canny", "image": _webp()}] * num_controls
    return json.dumps({"prompt": "a", "init_image": _webp(), "controls": controls, "num_inference_steps": 2}).encode()


def _deep_record() -> bytes:
    chunks, file = PngInfo(), io.BytesIO()
    chunks.add_itxt("parameters", "a")
    chunks.add_itxt("atelier", "[" * 900 + "]" * 900)
    Image.new("RGB", (64, 64)).save(file, "PNG", pnginfo=chunks)
    return json.dumps({"image": _base64(file.getvalue())}).encode()


def _image_of(data: bytes) -> bytes:
    return json.dumps({"prompt": "a", "init_image": _base64(data)}).encode()


ATTACKS = (
    Attack(name="lists, 29 MB", body=lambda: _lists(9_600_000)),
    Attack(name="lists, 5 MB", body=lambda: _lists(1_600_000)),
    Attack(name="objects", body=lambda: b'{"prompt": "a", "controls": [' + b"{}," * 60_000 + b"{}]}"),
    Attack(name="names in hires", body=lambda: b'{"prompt": "a", "hires": {' + _names() + b"}}"),
    Attack(name="names", body=lambda: b'{"prompt": "a", ' + _names() + b"}"),
    Attack(name="depth", body=lambda: b'{"prompt": "a", "n": ' + b"[" * 10_000_000 + b"}"),
    Attack(name="digits", body=lambda: b'{"prompt": "a", "n": ' + b"9" * 20_000_000 + b"}"),
    Attack(name="prompt", body=lambda: b'{"prompt": "' + b"a" * 25_000_000 + b'"}'),
    Attack(name="name", body=lambda: b'{"prompt": "a", "' + b"b" * 25_000_000 + b'": 1}'),
    Attack(name="loras", body=lambda: b'{"prompt": "a", "loras": [' + b"{}," * 60_000 + b"{}]}"),
    Attack(name="tags", body=lambda: json.dumps({"prompt": "<lora:" * 5000}).encode()),
    Attack(name="names of LoRAs", body=lambda: json.dumps({"prompt": "<lora:x>," * 3500}).encode()),
    Attack(name="no image", body=lambda: b'{"prompt": "a", "init_image": "' + b"A" * 25_000_000 + b'"}'),
    Attack(name="scans", body=lambda: _image_of(_jpeg_of_scans(1000))),
    Attack(name="segments", body=lambda: _image_of(_jpeg_of_segments(5_000_000))),
    Attack(name="six images", body=lambda: _images(5)),
    Attack(name="six images, twelve times", body=lambda: _images(5), at_once=12),
    Attack(name="two images, twelve times", body=lambda: _images(1), at_once=12, status=200),
    Attack(name="deep record", path=_INSPECT, body=_deep_record, status=200),
    Attack(name="request id", headers={**_JSON, "x-request-id": "<b>" * 5000}, body=lambda: b"{}"),
    Attack(
        name="foreign page",
        headers={"content-type": "text/plain", "origin": "http://a.test"},
        body=lambda: b'{"prompt": "a"}',
        status=403,
    ),
    Attack(
        name="gzip",
        headers={**_JSON, "content-encoding": "gzip"},
        body=lambda: gzip.compress(b" " * 10**8),
        status=415,
    ),
)
