"""Input images in JSON and as text in forms: base64, data URLs, and OpenAI's references; nothing is fetched."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import pytest

from tests.pictures import encoded, noise

_PICTURE = encoded(noise(32, 32))
_BASE64 = base64.b64encode(_PICTURE).decode()
_DATA_URL = f"data:image/png;base64,{_BASE64}"
_QUICK: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 2, "seed": 3}
_EDITS, _VARIATIONS = "/v1/images/edits", "/v1/images/variations"


async def _image(http: httpx2.AsyncClient, path: str, **sent: Any) -> str:
    answer = await http.post(path, **sent)
    assert answer.status_code == 200, answer.text
    image: str = answer.json()["data"][0]["b64_json"]
    return image


@pytest.mark.parametrize("path", [_EDITS, _VARIATIONS])
@pytest.mark.parametrize(
    "image", [_BASE64, _DATA_URL, {"image_url": _DATA_URL}, [_BASE64], [_DATA_URL], [{"image_url": _DATA_URL}]]
)
async def test_json_makes_the_image_that_an_upload_makes(http: httpx2.AsyncClient, path: str, image: object) -> None:
    uploaded = await _image(http, path, data=_QUICK, files={"image": ("upload", _PICTURE)})
    assert await _image(http, path, json={**_QUICK, "image": image}) == uploaded


@pytest.mark.parametrize("path", [_EDITS, _VARIATIONS])
@pytest.mark.parametrize("text", [_BASE64, _DATA_URL])
async def test_a_form_takes_an_image_as_text(http: httpx2.AsyncClient, path: str, text: str) -> None:
    uploaded = await _image(http, path, data=_QUICK, files={"image": ("upload", _PICTURE)})
    assert (
        await _image(
            http, path, files={**{name: (None, str(value)) for name, value in _QUICK.items()}, "image": (None, text)}
        )
        == uploaded
    )


async def test_openais_json_edit_is_taken(http: httpx2.AsyncClient) -> None:
    """A request as OpenAI's reference has it: `images` and `mask` refer to data URLs."""
    mask = encoded(noise(32, 32).convert("L"))
    form = {"image": ("upload", _PICTURE), "mask": ("upload", mask)}
    reference = {"image_url": f"data:image/png;base64,{base64.b64encode(mask).decode()}"}
    body = {**_QUICK, "images": [{"image_url": _DATA_URL}], "mask": reference}
    assert await _image(http, _EDITS, json=body) == await _image(http, _EDITS, data=_QUICK, files=form)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "image", "image is required."),
        ({"image": []}, "image", "at least 1 item"),
        ({"image": _BASE64, "images": [_BASE64]}, "images", "images: image is the same; send one of them."),
        ({"image": "https://example.org/a.png"}, "image[0]", "must be base64 or a data URL, because this server fe"),
        ({"image": [_BASE64], "mask": "http://example.org/a.png"}, "mask", "because this server fetches nothing"),
        (
            {"images": [{"image_url": "https://example.org/a.png"}]},
            "images[0]",
            "because this server fetches nothing",
        ),
        ({"images": [{"file_id": "file-1"}]}, "images[0]", "keeps no files by file_id; send a data URL as image_url"),
        ({"image": _BASE64, "mask": {"file_id": "file-1"}}, "mask", "keeps no files by file_id"),
        ({"images": [{"image_url": _DATA_URL, "detail": "high"}]}, "images[0]", "an object with only image_url"),
        ({"images": [{}]}, "images[0]", "an object with only image_url"),
        ({"images": [{"image_url": 3}]}, "images[0]", "valid bytes"),
        ({"image": 3}, "image", "valid list"),
        ({"images": [base64.b64encode(b"no picture").decode()]}, "images", "images: not a readable image"),
        ({"image": base64.b64encode(b"no picture").decode()}, "image", "image: not a readable image"),
        ({"image": [_BASE64] * 17}, "image", "must have at most 16 items, not 17"),
    ],
)
async def test_other_images_are_refused_by_name(
    http: httpx2.AsyncClient, fields: dict[str, object], param: str, message: str
) -> None:
    answer = await http.post(_EDITS, json={**_QUICK, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]


@pytest.mark.parametrize("field", ["image", "images"])
async def test_several_images_are_refused_under_the_name_they_were_sent_with(
    http: httpx2.AsyncClient, field: str
) -> None:
    answer = await http.post(_EDITS, json={**_QUICK, field: [_BASE64, _BASE64]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (501, field)


@pytest.mark.parametrize("field", ["init_image", "mask_image"])
async def test_no_field_is_fetched(http: httpx2.AsyncClient, field: str) -> None:
    answer = await http.post("/v1/images/generations", json={**_QUICK, field: "https://example.org/a.png"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field)
    assert "because this server fetches nothing; got 'https://example.org/a.png'" in error["message"]
