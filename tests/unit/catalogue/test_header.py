from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from atelier.catalogue.header import MAX_HEADER_BYTES, Refused, bounded_json, read_header
from tests.lora_files import write_lora

_TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _file(folder: Path, header: object, *, num_data_bytes: int = 8) -> Path:
    return _raw(folder, json.dumps(header).encode() if not isinstance(header, bytes) else header, num_data_bytes)


def _raw(folder: Path, header: bytes, num_data_bytes: int = 8) -> Path:
    file = folder / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(num_data_bytes))
    return file


def test_a_header_has_the_shapes_of_the_tensors_and_the_metadata(tmp_path: Path) -> None:
    header = read_header(write_lora(tmp_path, "x", names=["a.lora_A", "a.lora_B"], metadata={"format": "pt"}))
    assert header.shapes == {"a.lora_A": (2,), "a.lora_B": (2,)}
    assert header.metadata == {"format": "pt"}
    assert read_header(write_lora(tmp_path, "y")).metadata == {}


@pytest.mark.parametrize("data", [b"", b"1234567", b"\x80\x02}q\x00(X\x05", b"PK\x03\x04" * 100])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Refused, match=r"^it is not a safetensors file|not valid JSON"):
        read_header(tmp_path / "x")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="it cannot be read: No such file"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize("num_missing_bytes", [1, 16, 100])
def test_a_file_that_is_still_being_copied_is_refused(tmp_path: Path, num_missing_bytes: int) -> None:
    file = write_lora(tmp_path, "x")
    os.truncate(file, file.stat().st_size - num_missing_bytes)
    with pytest.raises(Refused, match="still being copied"):
        read_header(file)


def test_bytes_after_the_tensors_are_refused(tmp_path: Path) -> None:
    assert set(read_header(_file(tmp_path, {"a": _TENSOR})).shapes) == {"a"}
    with pytest.raises(Refused, match="incomplete"):
        read_header(_file(tmp_path, {"a": _TENSOR}, num_data_bytes=9))


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    padded = json.dumps({"a": _TENSOR}).encode().ljust(MAX_HEADER_BYTES)
    assert set(read_header(_raw(tmp_path, padded)).shapes) == {"a"}
    with pytest.raises(Refused, match=r"its header has 4194305 bytes; at most 4194304 are read"):
        read_header(_raw(tmp_path, padded + b" "))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{", "its header is not valid JSON"),
        (b"\xff{}", "its header is not valid JSON"),
        (b"[" * 100_000, "its header is not valid JSON"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "its header is not valid JSON"),
        (b"[]", "its header is not a JSON object"),
        ({"__metadata__": []}, "__metadata__ in its header must hold texts only"),
        ({"__metadata__": {"a": 1}}, "__metadata__ in its header must hold texts only"),
        ({"__metadata__": None}, "__metadata__ in its header must hold texts only"),
        ({"a": []}, "its header does not describe tensors"),
        ({"a": {}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "dtype": 1}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "shape": 2}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "shape": [2.0]}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "shape": [-2]}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "shape": [True]}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "data_offsets": [0]}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "data_offsets": [-1, 8]}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "data_offsets": [9, 8]}}, "its header does not describe tensors"),
        ({"a": {**_TENSOR, "data_offsets": [0, 8.0]}}, "its header does not describe tensors"),
    ],
)
def test_a_header_of_another_shape_is_refused(tmp_path: Path, header: object, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        read_header(_file(tmp_path, header))
    assert str(caught.value) == reason


def test_a_header_of_many_values_costs_little(tmp_path: Path) -> None:
    for text in (b"[" + b"{}," * 1_000_000 + b"{}]", b'{"a": [' + b"0," * 2_000_000 + b"0]}"):
        file = _raw(tmp_path, text)
        tracemalloc.start()
        try:
            with pytest.raises(Refused, match="its header has too many values; at most 400000 are read"):
                read_header(file)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 20_000_000


def test_json_within_the_bounds_is_parsed() -> None:
    assert bounded_json("[" + "0," * 399_998 + "0]", "it") == [0] * 399_999
    with pytest.raises(Refused, match="it has too many values"):
        bounded_json("[" + "0," * 400_000 + "0]", "it")
