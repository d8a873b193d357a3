"""Whether the server still makes the very pictures it made before.

`python -m benchmarks.same_bits --record` starts the graph, sends it the requests of `same_bits_requests` and writes
down what comes back, with a hash of every picture's pixels. Without `--record` it sends them again and prints what
differs; with `--concurrent` eight at a time and shuffled: `exact` must not depend on company. Bits are those of one
kind of machine.
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
from benchmarks.same_bits_requests import PICTURE, REQUESTS, Asked, input_pictures

_FILE = Path(__file__).parent / "results" / "same_bits.json"
_NUM_THREADS = 2
_NUM_AT_ONCE = 8
_EVENT = "data: "
_OF_PICTURES = ("kind", "seed", "size", "quality", "output_format", "parameters", "usage", "upscaler")
_OF_ENHANCED = ("width", "height", "scale", "model", "is_fallback")
_OF_EVENTS = ("type", "partial_image_index", "step", "total")
#: Of an answer: what its request settles. Times are not among it, nor what names the machine.
_SETTLED = (*_OF_PICTURES, *_OF_ENHANCED, *_OF_EVENTS, "error")
_PICTURES = ("b64_json", "image")
_LISTS = ("data", "control_maps")

Facts = dict[str, object]


def facts_of(answer: Mapping[str, Any]) -> Facts:
    """What an answer, or an event of one, must say again; hashes stand for pictures."""
    return {
        **{name: answer[name] for name in _SETTLED if name in answer},
        **{name: fingerprint(answer[name]) for name in _PICTURES if name in answer},
        **{name: [facts_of(part) for part in answer[name]] for name in _LISTS if name in answer},
    }


def fingerprint(text: str) -> str:
    """Of the pixels of a picture in base64, with or without a data URL's prefix."""
    with Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2]))) as picture:
        return f"{picture.mode} {picture.width}x{picture.height} {hashlib.sha256(picture.tobytes()).hexdigest()}"


async def ask(client: httpx2.AsyncClient, asked: Asked, pictures: Mapping[str, bytes]) -> Facts:
    """What is recorded of a request."""
    if asked.is_form:
        response = await client.post(asked.path, **_form(asked.fields, pictures))
    else:
        response = await client.post(asked.path, json=_in_base64(asked.fields, pictures))
    sent = {"path": asked.path, "fields": dict(asked.fields)}
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix(_EVENT) for line in response.text.splitlines() if line.startswith(_EVENT)]
        return {**sent, "events": [facts_of(json.loads(event)) for event in events]}
    if response.is_success:
        return {**sent, "answer": facts_of(response.json())}
    return {**sent, "answer": {"error": f"{response.status_code}: {response.text}"}}


def _in_base64(value: Any, pictures: Mapping[str, bytes]) -> Any:
    """JSON with pictures instead of their names."""
    if isinstance(value, Mapping):
        return {name: _in_base64(part, pictures) for name, part in value.items()}
    if isinstance(value, list):
        return [_in_base64(part, pictures) for part in value]
    if isinstance(value, str) and value.startswith(PICTURE):
        return base64.b64encode(pictures[value.removeprefix(PICTURE)]).decode("ascii")
    return value


def _form(fields: Mapping[str, object], pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """A client's arguments for a form: files, and everything else as text."""
    names = {name: value for name, value in fields.items() if isinstance(value, str) and value.startswith(PICTURE)}
    others = {name: _in_base64(value, pictures) for name, value in fields.items() if name not in names}
    return {
        "files": {name: (f"{name}.png", pictures[value.removeprefix(PICTURE)]) for name, value in names.items()},
        "data": {name: value if isinstance(value, str) else json.dumps(value) for name, value in others.items()},
    }


async def ask_all(address: str, requests: Iterable[Asked], *, num_at_once: int) -> dict[str, Facts]:
    """What is recorded of every request, by its name."""
    waiting, pictures, recorded = iter(requests), input_pictures(), dict[str, Facts]()

    async def work(client: httpx2.AsyncClient) -> None:
        for asked in waiting:
            recorded[asked.name] = await ask(client, asked, pictures)

    async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
        await asyncio.gather(*(work(client) for _ in range(num_at_once)))
    return recorded


def differences(before: Mapping[str, Facts], now: Mapping[str, Facts]) -> dict[str, list[str]]:
    """By the request's name: what was, and what is instead."""
    found: dict[str, list[str]] = {}
    for name in {**before, **now}:
        old, new = dict(_leaves(before.get(name, {}))), dict(_leaves(now.get(name, {})))
        places = [place for place in {**old, **new} if old.get(place) != new.get(place)]
        if places:
            found[name] = [f"{place} was {old.get(place)!r}, is {new.get(place)!r}" for place in places]
    return found


def _leaves(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Everything in JSON that has no parts, and where it is."""
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
        now = asyncio.run(ask_all(address, requests, num_at_once=_NUM_AT_ONCE if options.concurrent else 1))
    if options.record:
        failed = [f"{name}: {told}" for name, told in now.items() if '"error":' in json.dumps(told)]
        if failed:
            sys.exit("\n".join(failed))
        _FILE.write_text(json.dumps({**provenance("same_bits"), "requests": now}, indent=1, sort_keys=True) + "\n")
    before: dict[str, Facts] = json.loads(_FILE.read_text())["requests"]
    found = differences(before, now)
    for name, places in found.items():
        print(f"{name}:", *places, sep="\n  ")
    print(f"{len(before) - len(found)} of {len(before)} the same")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
