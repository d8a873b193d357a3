"""Mixed requests, which use every stage, and how their answers are judged."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import numpy as np
from PIL import Image, ImageDraw

#: Time limit of every request, in seconds; a client waits a little longer.
DEADLINE_S, _PATIENCE_S = 60, 10
#: Images of `fast` requests differ by rounding, depending on the company; those of another request are below 30 dB.
_MIN_DB = 60

#: Fields of all generations.
_QUICK = {"deadline_s": DEADLINE_S, "size": "64x64", "num_inference_steps": 10}
_GENERATIONS, _UPSCALE, _ANNOTATE = "/v1/images/generations", "/v1/images/upscale", "/v1/images/annotate"


@dataclass(frozen=True)
class Request:
    """A request with a seed, so that its images are known."""

    path: str
    body: dict[str, Any]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps([self.path, self.body]).encode()).hexdigest()


@cache
def requests() -> list[Request]:
    """Return the requests, which use every stage."""
    init_image, edges = _image(0), {"kind": "canny", "image": _image(1), "annotate": True}
    texts = [
        {"prompt": "a red circle", "seed": 1},
        {"prompt": "a blue ring on the left, white background", "seed": 2, "n": 2},
        {"prompt": "a green star", "seed": 3, "sampler": "dpmpp_2m", "reproducibility": "exact"},
        {"prompt": "a yellow square", "seed": 4, "size": "96x96", "guidance_scale": 1, "num_inference_steps": 20},
        {"prompt": "a purple cross", "seed": 5, "stream": True, "progress": True},
        {"prompt": "a large red star", "seed": 6, "upscale": {"scale": 2}},
        {"prompt": "a small red ring", "seed": 7, "hires": {"scale": 1.5}},
        {"prompt": "a blue shape", "seed": 8, "controls": [edges]},
        {"prompt": "a red shape", "seed": 9, "init_image": init_image, "strength": 0.6},
        {"prompt": "a red shape", "seed": 10, "init_image": init_image, "reproducibility": "exact"},
    ]
    return [
        *(Request(_GENERATIONS, {**_QUICK, **text}) for text in texts),
        Request(_UPSCALE, {"image": init_image, "scale": 2}),
        Request(_ANNOTATE, {"image": init_image, "kind": "canny"}),
    ]


class Answers:
    """Sends requests, and judges their answers by those that came first."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client
        self._expected: dict[str, list[bytes]] = {}

    async def expect(self, request: Request) -> None:
        """Send a request and remember its files."""
        self._expected[request.key] = await self.files(request)

    async def files(self, request: Request) -> list[bytes]:
        """Send a request and return its files."""
        files = await self._send(request)
        assert isinstance(files, list), f"{request.path}: {files}"
        return files

    async def kind(self, request: Request) -> str:
        """Send a request. Returns `files`, `retryable error`, `hung`, or what else came."""
        answer = await self._answer(request)
        return answer if isinstance(answer, str) else "files"

    async def judge(self, request: Request) -> str:
        """Like `kind`, but returns `right` or `wrong image` for files, compared with those that came first."""
        files = await self._answer(request)
        if isinstance(files, str):
            return files
        return "right" if is_right(request, files, self._expected[request.key]) else "wrong image"

    async def _answer(self, request: Request) -> list[bytes] | str:
        try:
            return await self._send(request)
        except TimeoutError:
            return "hung"
        except aiohttp.ClientError as error:
            return type(error).__name__

    async def _send(self, request: Request) -> list[bytes] | str:
        """Return the files of the answer, or what kind of error it is."""
        timeout = aiohttp.ClientTimeout(DEADLINE_S + _PATIENCE_S)
        async with self._client.post(request.path, json=request.body, timeout=timeout) as answer:
            body, is_stream = await answer.read(), answer.content_type == "text/event-stream"
            if answer.status != 200:
                is_retryable = answer.content_type == "application/json" and "x-should-retry" not in answer.headers
                return "retryable error" if is_retryable and "retry-after" in answer.headers else str(answer.status)
        if is_stream:
            last = body.decode().strip().split("\n\n")[-1]
            if last.startswith("event: error"):
                code = json.loads(last.partition("data: ")[2])["error"]["code"]
                return "retryable error" if code in ("replica_lost", "queue_full") else code
            return [base64.b64decode(json.loads(last.partition("data: ")[2])["b64_json"])]
        fields = await asyncio.to_thread(json.loads, body)
        return [base64.b64decode(one["b64_json"]) for one in fields.get("data", [fields])]


def is_right(request: Request, files: list[bytes], expected: list[bytes]) -> bool:
    """Return whether files show what they should; those of an `exact` request must be equal."""
    is_exact = request.body.get("reproducibility") == "exact"
    pairs = zip(files, expected, strict=True)
    return all(ours == theirs if is_exact else _decibels(ours, theirs) > _MIN_DB for ours, theirs in pairs)


def _decibels(ours: bytes, theirs: bytes) -> float:
    first, second = (np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.float64) for file in (ours, theirs))
    if first.shape != second.shape:
        return 0.0
    error = np.square(first - second).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _image(index: int) -> str:
    """An outline on the left or right, as a PNG in base64."""
    picture = Image.new("RGB", (64, 64))
    ImageDraw.Draw(picture).circle((18 + 28 * index, 32), 13, outline="white", width=2)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
