"""A check that the server still makes the same images to the bit.

`python -m benchmarks.same_bits --record` starts the graph, sends the requests of `same_bits_requests` and records the
answers, with a hash of every image's pixels. Without `--record` it compares the answers with the recorded ones and
prints the differences. With `--concurrent` it sends them shuffled, eight at a time, because `exact` images must not
depend on other requests. A recording is valid only on the kind of machine that it was made on.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import httpx2
from PIL import Image

from benchmarks.graph import running_graph
from benchmarks.results import provenance
from benchmarks.same_bits_requests import IMAGE_PREFIX, REQUESTS, RequestCase, input_images

_FILE = Path(__file__).parent / "results" / "same_bits.json"
_NUM_THREADS = 2
_NUM_AT_ONCE = 8
_EVENT = "data: "
_IMAGE_FIELDS = ("kind", "seed", "size", "quality", "output_format", "parameters", "usage", "upscaler")
_ENHANCED_FIELDS = ("width", "height", "scale", "model", "is_fallback")
_EVENT_FIELDS = ("type", "partial_image_index", "step", "total")
#: Fields of an answer that are compared, because they depend only on the request, not on the time or the machine.
_COMPARED_FIELDS = (*_IMAGE_FIELDS, *_ENHANCED_FIELDS, *_EVENT_FIELDS, "error")
_ENCODED_IMAGES = ("b64_json", "image")
_LISTS = ("data", "control_maps")

Facts = dict[str, object]


def facts_of(answer: Mapping[str, Any]) -> Facts:
    """Return the part of an answer or event that is compared, with hashes in place of images."""
    return {
        **{name: answer[name] for name in _COMPARED_FIELDS if name in answer},
        **{name: fingerprint(answer[name]) for name in _ENCODED_IMAGES if name in answer},
        **{name: [facts_of(part) for part in answer[name]] for name in _LISTS if name in answer},
    }


def fingerprint(text: str) -> str:
    """Return mode, size and SHA-256 of the pixels of an image in base64, with or without a data URL's prefix."""
    with Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2]))) as image:
        return f"{image.mode} {image.width}x{image.height} {hashlib.sha256(image.tobytes()).hexdigest()}"


async def send(client: httpx2.AsyncClient, case: RequestCase, images: Mapping[str, bytes]) -> Facts:
    """Send a request; returns the request and the compared part of its answer."""
    if case.is_form:
        response = await client.post(case.path, **_form(case.fields, images))
    else:
        response = await client.post(case.path, json=_in_base64(case.fields, images))
    sent = {"path": case.path, "fields": dict(case.fields)}
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix(_EVENT) for line in response.text.splitlines() if line.startswith(_EVENT)]
        return {**sent, "events": [facts_of(json.loads(event)) for event in events]}
    if response.is_success:
        return {**sent, "answer": facts_of(response.json())}
    return {**sent, "answer": {"error": f"{response.status_code}: {response.text}"}}


def _in_base64(value: Any, images: Mapping[str, bytes]) -> Any:
    """Replace each string in a JSON value that names an input image (`@scene`) by that image in base64."""
    if isinstance(value, Mapping):
        return {name: _in_base64(part, images) for name, part in value.items()}
    if isinstance(value, list):
        return [_in_base64(part, images) for part in value]
    if isinstance(value, str) and value.startswith(IMAGE_PREFIX):
        return base64.b64encode(images[value.removeprefix(IMAGE_PREFIX)]).decode("ascii")
    return value


def _form(fields: Mapping[str, object], images: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the HTTP client's arguments for a form: images as files, everything else as text."""
    names = {
        name: value for name, value in fields.items() if isinstance(value, str) and value.startswith(IMAGE_PREFIX)
    }
    others = {name: _in_base64(value, images) for name, value in fields.items() if name not in names}
    return {
        "files": {name: (f"{name}.png", images[value.removeprefix(IMAGE_PREFIX)]) for name, value in names.items()},
        "data": {name: value if isinstance(value, str) else json.dumps(value) for name, value in others.items()},
    }


async def send_all(address: str, requests: Iterable[RequestCase], *, num_at_once: int) -> dict[str, Facts]:
    """Send all requests, `num_at_once` at a time; returns the results of `send` by the requests' names."""
    waiting, images, answers = iter(requests), input_images(), dict[str, Facts]()

    async def work(client: httpx2.AsyncClient) -> None:
        for case in waiting:
            answers[case.name] = await send(client, case, images)

    async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
        await asyncio.gather(*(work(client) for _ in range(num_at_once)))
    return answers


def differences(before: Mapping[str, Facts], now: Mapping[str, Facts]) -> dict[str, list[str]]:
    """Return, by request name, one message for each value of the answer that changed, with its old and new value."""
    found: dict[str, list[str]] = {}
    for name in {**before, **now}:
        old, new = dict(_leaves(before.get(name, {}))), dict(_leaves(now.get(name, {})))
        places = [place for place in {**old, **new} if old.get(place) != new.get(place)]
        if places:
            found[name] = [f"{place} was {old.get(place)!r}, is {new.get(place)!r}" for place in places]
    return found


def _leaves(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield the scalars of JSON, each with its path."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{place}[{index}]")
    else:
        yield place, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--record", action="store_true")
    kind.add_argument("--concurrent", action="store_true")
    options = parser.parse_args()
    requests = list(REQUESTS)
    if options.concurrent:
        Random(0).shuffle(requests)
    with running_graph(num_threads=_NUM_THREADS) as address:
        now = asyncio.run(send_all(address, requests, num_at_once=_NUM_AT_ONCE if options.concurrent else 1))
    if options.record:
        failed = [f"{name}: {facts}" for name, facts in now.items() if '"error":' in json.dumps(facts)]
        if failed:
            sys.exit("\n".join(failed))
        _FILE.write_text(json.dumps({**provenance("same_bits"), "requests": now}, indent=1, sort_keys=True) + "\n")
    before: dict[str, Facts] = json.loads(_FILE.read_text())["requests"]
    found = differences(before, now)
    for name, places in found.items():
        print(f"{name}:", *places, sep="\n  ")
    print(f"{len(before) - len(found)} of {len(before)} requests gave the same answer")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
