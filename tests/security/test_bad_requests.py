"""Requests in which something is wrong: each is answered with a JSON error that names the field, before any work."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from random import Random

import httpx2
import pytest

from tests.pictures import as_base64, noise
from tests.stages import RecordingStages

_IMAGE = as_base64(noise(32, 32))
_LONE_SURROGATE = "\ud800"
_NO_TEXT: tuple[object, ...] = (5, 1.5, True, [], {}, ["x"], _LONE_SURROGATE, "x" * 33_000)
_NO_NUMBER: tuple[object, ...] = (
    "1",
    "",
    True,
    [],
    {},
    [1],
    10**30,
    -(10**30),
    1e300,
    float("nan"),
    float("inf"),
    _LONE_SURROGATE,
)
_NO_INTEGER = (*_NO_NUMBER, 1.5)
_NO_CHOICE: tuple[object, ...] = ("zzz", "", 5, True, [], {}, [[]] * 50, _LONE_SURROGATE)
_NO_FLAG: tuple[object, ...] = ("true", 1, 0, "", [], {})
_NO_IMAGE: tuple[object, ...] = (
    "AAAA",
    "!",
    "data:image/png;base64,AAAA",
    5,
    True,
    [],
    {},
    [_IMAGE] * 20,
    "data:",
    "http://x/y.png",
)
_NO_RECORD: tuple[object, ...] = (
    5,
    "x",
    True,
    [],
    [{}] * 30,
    {"zzz": 1},
    {"scale": "x"},
    {"scale": 0.1},
    {"scale": []},
)
_NO_CONTROLS: tuple[object, ...] = (
    5,
    "x",
    {},
    [5],
    [[]],
    [{}],
    [[]] * 100,
    [{"kind": "canny"}],
    [{"kind": "zzz", "image": _IMAGE}],
    [{"kind": "canny", "image": "AAAA"}],
    [{"kind": "canny", "model": "small-canny", "image": _IMAGE}],
    [{"kind": "canny", "image": _IMAGE, "start": 0.9, "end": 0.1}],
    [{"kind": "canny", "image": _IMAGE, "zzz": 1}],
    [{"kind": "canny", "image": _IMAGE}] * 5,
)
_NO_LORAS: tuple[object, ...] = (
    5,
    "x",
    True,
    {},
    [5],
    [[]],
    [{}],
    [[]] * 100,
    [{"model": "zzz"}],
    [{"name": "../../etc/passwd"}],
    [{"model": "zzz", "weight": 5}],
    [{"model": "zzz", "weight": float("nan")}],
    [{"model": "x" * 5000}],
    [{"model": _LONE_SURROGATE}],
    [{"model": "zzz", "name": "zzz"}],
    [{"model": "zzz", "path": "/etc/passwd"}],
    [{"model": "zzz"}] * 9,
)
_NO_TAGS = ("<lora:zzz>", "a <lora:", "<lora:zzz:1:1>", "<lora:zzz:9>", "<lora:zzz>" * 3000, "<lora:" * 5000)
_SIZES = (*_NO_CHOICE, "64", "64x", "x64", "64x64x64", "0x0", "-8x64", "65x64", "1e3x64", "99999999999x8", "64x64 ")

_GENERATE: dict[str, tuple[object, ...]] = {
    "prompt": (*_NO_TEXT, *_NO_TAGS),
    "model": (*_NO_TEXT, "zzz", "../../etc/passwd", "http://x"),
    "n": (*_NO_INTEGER, 0, 11),
    "size": _SIZES,
    "output_format": _NO_CHOICE,
    "output_compression": (*_NO_INTEGER, -1, 101),
    "negative_prompt": (*_NO_TEXT, *_NO_TAGS),
    "prompt_2": (*_NO_TEXT, *_NO_TAGS),
    "negative_prompt_2": _NO_TEXT,
    "seed": (*_NO_INTEGER, -2, 2**32),
    "num_inference_steps": (*_NO_INTEGER, 0, 151),
    "guidance_scale": (*_NO_NUMBER, -1, 31),
    "guidance_rescale": (*_NO_NUMBER, -1, 2),
    "sampler": _NO_CHOICE,
    "schedule": _NO_CHOICE,
    "eta": (*_NO_NUMBER, -1, 2),
    "init_image": _NO_IMAGE,
    "mask_image": _NO_IMAGE,
    "markup_image": _NO_IMAGE,
    "strength": (*_NO_NUMBER, 0, 2),
    "controls": _NO_CONTROLS,
    "hires": (*_NO_RECORD, {"strength": 0}, {"steps": 0}),
    "upscale": (*_NO_RECORD, {"scale": 9}, {"model": "zzz"}),
    "reproducibility": _NO_CHOICE,
    "deadline_s": (*_NO_NUMBER, 0, 3601),
    "quality": _NO_CHOICE,
    "style": _NO_CHOICE,
    "background": (*_NO_CHOICE, "transparent"),
    "moderation": _NO_CHOICE,
    "response_format": (*_NO_CHOICE, "png"),
    "stream": _NO_FLAG,
    "partial_images": (*_NO_INTEGER, -1, 4),
    "progress": _NO_FLAG,
    "user": (*_NO_TEXT,),
    "clip_skip": (2, "x", []),
    "loras": _NO_LORAS,
    "ip_adapter": ([{}], "x"),
    "priority": _NO_CHOICE,
    "zzz": (1, "x", [], {}),
    "steps": (20,),
    "\x00": (1,),
    "y" * 5000: (1,),
}
_ANNOTATE: dict[str, tuple[object, ...]] = {
    "image": _NO_IMAGE,
    "kind": _NO_CHOICE,
    "low_threshold": (*_NO_INTEGER, -1),
    "high_threshold": (*_NO_INTEGER, -1),
    "zzz": (1, []),
}
_UPSCALE: dict[str, tuple[object, ...]] = {
    "image": _NO_IMAGE,
    "scale": (*_NO_NUMBER, 0.5, 5),
    "model": (*_NO_TEXT, "zzz"),
    "output_format": _NO_CHOICE,
    "output_compression": (*_NO_INTEGER, -1, 101),
    "response_format": _NO_CHOICE,
    "zzz": (1, []),
}
_ROUTES: dict[str, tuple[dict[str, object], dict[str, tuple[object, ...]]]] = {
    "/v1/images/generations": ({"prompt": "x", "size": "64x64", "num_inference_steps": 1}, _GENERATE),
    "/v1/images/annotate": ({"image": _IMAGE, "kind": "canny"}, _ANNOTATE),
    "/v1/images/upscale": ({"image": _IMAGE, "scale": 2}, _UPSCALE),
    "/v1/images/inspect": ({"image": _IMAGE}, {"image": _NO_IMAGE, "zzz": (1, [])}),
    "/enhance-media": ({"image": _IMAGE}, {"image": _NO_IMAGE, "scale": _NO_NUMBER, "model": _NO_TEXT}),
}


def _requests() -> Iterator[tuple[str, dict[str, object], set[str]]]:
    """Paths, bodies and names of the wrong fields: every wrong value alone, then several at random."""
    for path, (valid, wrong) in _ROUTES.items():
        for name, values in wrong.items():
            for value in values:
                yield path, {**valid, name: value}, {name}
    random = Random("bad requests")
    while True:
        path = random.choice(["/v1/images/generations"] * 4 + list(_ROUTES))
        valid, wrong = _ROUTES[path]
        names = random.sample(sorted(wrong), min(len(wrong), random.randint(1, 4)))
        yield path, {**valid, **{name: random.choice(wrong[name]) for name in names}}, set(names)


@pytest.mark.slow
@pytest.mark.parametrize("num_requests", [4000, pytest.param(20_000, marks=pytest.mark.long)])
async def test_bad_requests_are_refused_by_field(
    http: httpx2.AsyncClient, stages: RecordingStages, num_requests: int
) -> None:
    for path, body, names in itertools.islice(_requests(), num_requests):
        answer = await http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
        error = answer.json()["error"]
        said = f"{path} {sorted(names)}: {answer.status_code} {error}"[:2000]
        assert answer.status_code in (400, 404, 501), said
        assert error["message"], said
        assert len(answer.content) < 3000, said
        param = error["param"] or ""
        assert any(param[:50].startswith(name[:50].replace("\x00", "")) for name in names), said
    assert stages.calls == []
