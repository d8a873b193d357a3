"""Any bytes sent as an image or a form get an answer, never a 500."""

from __future__ import annotations

import base64
from random import Random

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.pictures import encoded

_CHEAP = {"num_inference_steps": 1, "size": "32x32"}


def _mutants(count: int) -> list[bytes]:
    """Image files broken at random, with a fixed seed: bytes changed or removed, or the end cut off or replaced."""
    random = Random("fuzz")
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 4), dtype=np.uint8)
    modes = (("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGBA"))
    picture = Image.fromarray(noise).convert("RGB")
    whole = [encoded(picture.convert(mode), output_format) for output_format, mode in modes]
    mutants = []
    for index in range(count):
        data, other = bytearray(random.choice(whole)), random.choice(whole)
        start, end = sorted(random.randrange(len(data)) for _ in range(2))
        if index % 4 == 0:
            for _ in range(random.randrange(1, 20)):
                data[random.randrange(len(data))] = random.randrange(256)
        elif index % 4 == 1:
            del data[end:]
        elif index % 4 == 2:
            del data[start:end]
        else:
            data[start:] = other[min(start, len(other)) :]
        mutants.append(bytes(data))
    return mutants


@pytest.mark.slow
@pytest.mark.parametrize("mutant", _mutants(24), ids=range(24))
async def test_broken_pictures_give_no_500(http: httpx2.AsyncClient, mutant: bytes) -> None:
    encoded = base64.b64encode(mutant).decode()
    bodies: list[dict[str, object]] = [
        {"init_image": encoded},
        {"init_image": encoded, "mask_image": encoded},
        {"controls": [{"kind": "canny", "image": encoded, "annotate": True}]},
    ]
    answers = [await http.post("/v1/images/generations", json={"prompt": "x", **_CHEAP, **body}) for body in bodies]
    answers.append(await http.post("/v1/images/annotate", json={"image": encoded, "kind": "depth"}))
    answers.append(await http.post("/v1/images/inspect", json={"image": encoded}))
    for path in ("edits", "variations"):
        form = {"prompt": "x", "num_inference_steps": "1", "size": "32x32"}
        files = {"image": ("upload", mutant), "mask": ("upload", mutant)}
        answers.append(await http.post(f"/v1/images/{path}", data=form, files=files))
    for answer in answers:
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert answer.json()["error"]["message"]


_FORMS = [
    b"",
    b"--x",
    b"--x--\r\n",
    b"--x\r\n\r\n--x--\r\n",
    b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n",
    b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--x',
    b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1e999\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\nNaN\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="controls"\r\n\r\n[{}]\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="controls[][image"\r\n\r\n1\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="controls[][image][x]"\r\n\r\n1\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="\x00"\r\n\r\n\x00\r\n--x--\r\n',
    b'--x\r\nContent-Disposition: form-data; name="prompt"; filename="a"\r\n\r\nx\r\n--x--\r\n',
    b"--x\r\n" + b"A" * 20_000 + b": 1\r\n\r\n1\r\n--x--\r\n",
    b'--x\r\nContent-Disposition: form-data; name="controls"\r\n\r\n' + b"[" * 5000 + b"\r\n--x--\r\n",
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 200 + b"--x--\r\n",
]
_TYPES = ["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=", "text/plain"]


@pytest.mark.parametrize("content_type", _TYPES)
@pytest.mark.parametrize("form", _FORMS, ids=range(len(_FORMS)))
async def test_broken_forms_give_no_500(http: httpx2.AsyncClient, form: bytes, content_type: str) -> None:
    for path in ("edits", "variations"):
        answer = await http.post(f"/v1/images/{path}", content=form, headers={"content-type": content_type})
        assert answer.status_code == (415 if content_type == "text/plain" else 400), answer.text
        assert answer.json()["error"]["message"]


_JSON = [
    b"",
    b"[]",
    b"null",
    b"{",
    b'{"prompt": "\xff"}',
    b"[" * 5000,
    b'{"prompt": "x", "controls": {"image": 1}}',
    b'{"prompt": "x", "controls": [[]]}',
    b'{"prompt": "x", "init_image": {}}',
    b'{"prompt": "x", "n": 1e999}',
    b'{"prompt": "\\ud800"}',
]


@pytest.mark.parametrize("body", _JSON, ids=range(len(_JSON)))
async def test_broken_json_gives_no_500(http: httpx2.AsyncClient, body: bytes) -> None:
    for path in ("generations", "annotate", "inspect"):
        answer = await http.post(f"/v1/images/{path}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
