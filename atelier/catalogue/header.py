"""The header of a safetensors file: names and shapes of its tensors and its metadata, read within bounds.

The file is read, not mapped into memory: a mapped file that is cut off meanwhile ends the process that reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_HEADER_BYTES = 4 * 2**20
#: Number of bytes that give the length of the header, before it.
LENGTH_BYTES = 8
#: Maximum number of values in a JSON text; so many take up to 40 MB of memory.
_MAX_VALUES = 400_000
_METADATA = "__metadata__"


class Refused(Exception):
    """A file that is not served; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself."""

    #: Shapes of the tensors by their names.
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def read_header(file: Path) -> Header:
    """Read a file's header. Raises Refused if it is not safetensors, incomplete, or larger than allowed."""
    try:
        with file.open("rb") as opened:
            num_bytes = os.fstat(opened.fileno()).st_size
            length = header_length(opened.read(LENGTH_BYTES), num_bytes)
            text = opened.read(length)
    except OSError as error:
        raise Refused(f"it cannot be read: {error.strerror}") from error
    return header_of(text, num_bytes)


def header_length(prefix: bytes, num_bytes: int) -> int:
    """Return the length of the header, which follows the first `LENGTH_BYTES` bytes of a file of `num_bytes`.

    Raises Refused if the file is too small for it, or if it is larger than allowed.
    """
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if LENGTH_BYTES + length > num_bytes:
        raise Refused("it is not a safetensors file, or is still being copied")
    if length > MAX_HEADER_BYTES:
        raise Refused(f"its header has {length} bytes; at most {MAX_HEADER_BYTES} are read")
    return length


def header_of(text: bytes, num_bytes: int) -> Header:
    """Parse the header of a file of `num_bytes`. Raises Refused if it is wrong, or the file incomplete."""
    num_data_bytes = num_bytes - LENGTH_BYTES - len(text)
    header = bounded_json(text, "its header")
    if not isinstance(header, dict):
        raise Refused("its header is not a JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused(f"{_METADATA} in its header must hold texts only")
    if max(map(_end, header.values()), default=0) != num_data_bytes:
        raise Refused("it is incomplete, or still being copied")
    return Header({name: _shape(tensor) for name, tensor in header.items()}, metadata)


def bounded_json(text: bytes | str, what: str) -> object:
    """Parse JSON of unknown origin. Raises Refused if it is wrong, or has too many values."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        if sum(map(text.count, ",[{")) > _MAX_VALUES:
            raise Refused(f"{what} has too many values; at most {_MAX_VALUES} are read")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what} is not valid JSON") from error


def _end(tensor: object) -> int:
    """Return where a tensor's data ends, in bytes after the header."""
    match tensor:
        case {"dtype": str(), "data_offsets": [int(start), int(end)]} if 0 <= start <= end:
            return end
    raise Refused("its header does not describe tensors")


def _shape(tensor: object) -> tuple[int, ...]:
    match tensor:
        case {"shape": [*sides]} if all(type(side) is int and side >= 0 for side in sides):
            return tuple(sides)
    raise Refused("its header does not describe tensors")
