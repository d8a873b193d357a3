"""Hostile files in the folder of LoRAs: refused with a reason at little cost, while the others are served."""

from __future__ import annotations

import json
import os
import tracemalloc
from datetime import timedelta
from pathlib import Path
from random import Random

import httpx2
import pytest

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.loras import LoraLibrary
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore
from tests.lora_files import with_loras, write_lora
from tests.stages import RecordingStages

_MAX_BYTES = 150_000_000
_LORA = "a.lora_A.weight"


def _file(header: bytes, *, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


def _header(**metadata: object) -> bytes:
    tensor = {"dtype": "F32", "shape": [], "data_offsets": [0, 0]}
    return json.dumps({"__metadata__": metadata, _LORA: tensor}).encode()


_FILES = {
    "length": _file(b"{}", length=2**64 - 1),
    "no-header": _file(b"", length=0),
    "long": _file(b"{" + b" " * 30_000_000 + b"}"),
    "deep": _file(b'{"a":' * 500_000),
    "lists": _file(b"[" + b"[]," * 1_300_000 + b"[]]"),
    "names": _file(json.dumps(dict.fromkeys(map(str, range(300_000)), 0)).encode()),
    "digits": _file(b'{"a": ' + b"9" * 4_000_000 + b"}"),
    "pickle": b"\x80\x04\x95" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(100),
    "surrogate": _file(_header(**{"modelspec.description": "\ud800"})),
    "number": _file(_header(ss_output_name=5)),
    "list": _file(_header(**{"modelspec.tags": ["a"]})),
    "frequency": _file(_header(ss_tag_frequency=json.dumps({"a": {str(i): "x" for i in range(100_000)}}))),
    "deep-frequency": _file(_header(ss_tag_frequency='{"a":' * 300_000)),
    "tag": _file(_header(**{"modelspec.trigger_phrase": "<lora:neon:4>"})),
}
_JSON = {
    "deep-json": b"[" * 900_000,
    "long-json": b" " * 5_000_000 + b"{}",
    "many-json": b'{"tags": [' + b'"a",' * 250_000 + b'"a"]}',
    "binary-json": b"\xff\xfe\x00",
    "path-json": b'{"preview": "../../../etc/passwd.png"}',
    "nan-json": b'{"weight": NaN}',
    "huge-json": b'{"weight": 1e999}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good LoRA and every hostile one."""
    folder = tmp_path / "loras"
    write_lora(folder, "good")
    for name, data in _FILES.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    for name, data in _JSON.items():
        write_lora(folder, name)
        (folder / f"{name}.json").write_bytes(data)
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    return folder


def test_hostile_files_cost_little(folder: Path) -> None:
    tracemalloc.start()
    try:
        loras = LoraLibrary(folders=[folder]).look()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _MAX_BYTES
    assert list(loras.by_id) == ["good"]
    assert {file.name.removesuffix(".safetensors") for file in loras.refused} == {*_FILES, *_JSON, "link", "pipe"}


async def test_hostile_files_are_reported_without_their_content(
    folder: Path, stages: RecordingStages, small_catalogue: Catalogue, tmp_path: Path
) -> None:
    pipeline = Pipeline(stages, with_loras(small_catalogue, folder), PipelineLimits(max_pixel_steps=2_000_000))
    app = build_app(pipeline, BlobStore(tmp_path.as_uri(), ttl=timedelta(hours=1)), max_body_bytes=32_000_000)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http:
        report = (await http.get("/loras")).json()
        assert [lora["id"] for lora in report["loras"]] == ["good"]
        assert len(report["refused"]) == len(_FILES) + len(_JSON) + 2
        for refused in report["refused"]:
            assert len(refused["reason"]) < 300
            assert "secret" not in refused["reason"]
            lora_id = refused["file"].removesuffix(".safetensors")
            answer = await http.get(f"/v1/loras/{lora_id}")
            assert answer.status_code == 404
            assert refused["reason"] in answer.json()["error"]["message"]


def test_files_broken_at_random_are_served_or_refused(tmp_path: Path) -> None:
    """Bytes changed, removed and doubled, with a fixed seed: no error but a reason, and nothing that is not JSON."""
    random = Random("loras")
    metadata = {"ss_tag_frequency": '{"a": {"b": 3}}', "modelspec.tags": "x, y", "modelspec.description": "é"}
    whole = write_lora(tmp_path / "whole", "x", metadata=metadata).read_bytes()
    beside = json.dumps({"weight": 1, "tags": ["a"], "trigger_words": "b, c", "preview": "x.png"}).encode()
    (tmp_path / "loras").mkdir()
    for index in range(300):
        for data, ending in ((whole, "safetensors"), (beside, "json")):
            mutant, start = bytearray(data), random.randrange(len(data))
            match random.randrange(4):
                case 0:
                    mutant[start] = random.randrange(256)
                case 1:
                    del mutant[start:]
                case 2:
                    del mutant[start : start + random.randrange(1, 9)]
                case 3:
                    mutant[start:start] = mutant[start : start + random.randrange(1, 9)]
            (tmp_path / "loras" / f"{index:03}.{ending}").write_bytes(mutant)
    loras = LoraLibrary(folders=[tmp_path / "loras"]).look()
    assert len(loras.by_id) + len(loras.refused) == 300
    assert loras.refused
    for entry in loras.by_id.values():
        json.dumps(entry.model_dump(mode="json"), ensure_ascii=False, allow_nan=False).encode()
