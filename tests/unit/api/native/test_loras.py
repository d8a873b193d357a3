from __future__ import annotations

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.core.adapters import Lora
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore
from tests.lora_files import StagesWithoutLoras, with_loras, write_lora
from tests.pictures import as_base64, encoded, noise
from tests.stages import RecordingStages

_GENERATIONS = "/v1/images/generations"
_QUICK: dict[str, Any] = {"prompt": "a circle", "size": "64x64", "num_inference_steps": 2, "seed": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three LoRAs."""
    folder = tmp_path / "loras"
    write_lora(
        folder,
        "neon",
        metadata={"modelspec.title": "Neon", "modelspec.author": "me", "ss_network_dim": "16"},
        description="Glowing outlines",
        licence="MIT",
        tags=["style", "dark"],
        trigger_words=["neon style"],
        weight=0.8,
    )
    write_lora(folder, "pastel", tags=["style"])
    write_lora(folder, "Add Detail (XL)")
    return folder


@pytest.fixture
def stages(small_stages: LocalStages) -> RecordingStages:
    """The small model's stages, which receive no LoRAs, with a record of what they were to receive."""
    return RecordingStages(StagesWithoutLoras(small_stages))


@pytest.fixture
def catalogue(small_catalogue: Catalogue, folder: Path) -> Catalogue:
    return with_loras(small_catalogue, folder)


@pytest.fixture
def pipeline(stages: RecordingStages, catalogue: Catalogue) -> Pipeline:
    return Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=2_000_000))


@pytest.fixture
def app(pipeline: Pipeline, blobs: BlobStore) -> ASGIApp:
    return build_app(pipeline, blobs, max_body_bytes=100_000)


def _ids(answer: httpx2.Response) -> list[str]:
    listed = answer.json()
    assert (answer.status_code, listed["object"]) == (200, "list")
    return [lora["id"] for lora in listed["data"]]


def _requested(stages: RecordingStages) -> list[tuple[Lora, ...]]:
    return [request.pass_.loras for request in stages.requests]


async def test_a_lora_is_described(http: httpx2.AsyncClient) -> None:
    lora = (await http.get("/v1/loras/neon")).json()
    assert lora == {
        "id": "neon",
        "object": "lora",
        "title": "Neon",
        "description": "Glowing outlines",
        "author": "me",
        "licence": "MIT",
        "models": ["small-sdxl"],
        "weight": 0.8,
        "trigger_words": ["neon style"],
        "tags": ["style", "dark"],
        "rank": 16,
        "preview": None,
    }
    assert lora in (await http.get("/v1/loras")).json()["data"]
    assert (await http.get("/")).json()["loras"] == (await http.get("/v1/loras")).json()["data"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["Add Detail (XL)", "neon", "pastel"]),
        ("?search=glow", ["neon"]),
        ("?search=NEON%20outlines", ["neon"]),
        ("?tag=style", ["neon", "pastel"]),
        ("?tag=style&tag=Dark", ["neon"]),
        ("?search=pastel&tag=dark", []),
        ("?model=small-sdxl", ["Add Detail (XL)", "neon", "pastel"]),
        ("?model=dall-e-3&search=pastel", ["pastel"]),
    ],
)
async def test_loras_are_listed_by_search_tags_and_model(
    http: httpx2.AsyncClient, query: str, ids: list[str]
) -> None:
    assert _ids(await http.get(f"/v1/loras{query}")) == ids


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        (f"?search={'x' * 201}", 400, "search"),
        ("?" + "&".join(["tag=x"] * 21), 400, "tag"),
        ("?model=nope", 404, "model"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_by_name(
    http: httpx2.AsyncClient, query: str, status: int, param: str
) -> None:
    answer = await http.get(f"/v1/loras{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_a_query_up_to_the_bounds_is_answered(http: httpx2.AsyncClient) -> None:
    assert _ids(await http.get(f"/v1/loras?search={'x' * 200}")) == []
    assert _ids(await http.get("/v1/loras?" + "&".join(["tag=style"] * 20))) == ["neon", "pastel"]


async def test_a_lora_that_comes_while_the_server_runs_is_served(
    http: httpx2.AsyncClient, stages: RecordingStages, folder: Path
) -> None:
    write_lora(folder, "outline")
    assert "outline" in _ids(await http.get("/v1/loras"))
    answer = await http.post(_GENERATIONS, json={**_QUICK, "loras": [{"model": "outline"}]})
    assert answer.status_code == 200
    assert _requested(stages) == [(Lora("outline", 1),)]


@pytest.mark.parametrize("path", ["/v1/loras/neom", "/v1/loras/neom/preview"])
async def test_an_unknown_lora_is_named_with_the_nearest(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "lora_not_found", "lora_id")
    assert "'neom'" in error["message"]
    assert "Did you mean 'neon'" in error["message"]


@pytest.mark.parametrize(
    "lora_id", ["..%2Fsecret", "%2e%2e", "neon%2fpreview", "/etc/passwd", "neon.safetensors", "%00"]
)
async def test_an_id_is_never_a_path(http: httpx2.AsyncClient, folder: Path, lora_id: str) -> None:
    write_lora(folder.parent, "secret")
    (folder.parent / "secret.png").write_bytes(encoded(noise(8, 8)))
    for path in (f"/v1/loras/{lora_id}", f"/v1/loras/{lora_id}/preview"):
        assert (await http.get(path)).status_code == 404


async def test_refused_files_are_reported_with_the_reasons(http: httpx2.AsyncClient, folder: Path) -> None:
    (folder / "old.ckpt").write_bytes(b"x")
    report = (await http.get("/loras")).json()
    assert report["loras"] == (await http.get("/v1/loras")).json()["data"]
    assert report["refused"] == [
        {"file": "old.ckpt", "reason": "only safetensors files are served; a pickle may run code"}
    ]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_preview_has_the_type_of_its_bytes(
    http: httpx2.AsyncClient, folder: Path, output_format: str
) -> None:
    data = encoded(noise(8, 8), output_format)
    (folder / "Add Detail (XL).png").write_bytes(data)
    path = (await http.get("/v1/loras/Add%20Detail%20(XL)")).json()["preview"]
    assert path == "/v1/loras/Add%20Detail%20%28XL%29/preview"
    answer = await http.get(path)
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-type"] == f"image/{output_format}"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_preview_is_kept_by_clients_until_it_changes(http: httpx2.AsyncClient, folder: Path) -> None:
    (folder / "neon.png").write_bytes(encoded(noise(8, 8)))
    first = await http.get("/v1/loras/neon/preview")
    assert first.headers["cache-control"] == "private, max-age=60"
    again = {"if-none-match": first.headers["etag"]}
    answer = await http.get("/v1/loras/neon/preview", headers=again)
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", first.headers["etag"])
    (folder / "neon.png").write_bytes(encoded(noise(8, 8, seed=1)))
    assert (await http.get("/v1/loras/neon/preview", headers=again)).status_code == 200


@pytest.mark.parametrize("data", [None, b"", b"<svg/>", b"<script>alert(1)</script>", bytes(16 * 2**20 + 1)])
async def test_what_is_no_image_is_no_preview(http: httpx2.AsyncClient, folder: Path, data: bytes | None) -> None:
    if data is not None:
        (folder / "neon.png").write_bytes(data)
    answer = await http.get("/v1/loras/neon/preview")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "not_found")
    assert error["message"] == "The LoRA 'neon' has no preview image."


async def test_a_large_preview_is_answered_up_to_the_limit(http: httpx2.AsyncClient, folder: Path) -> None:
    data = encoded(noise(8, 8)).ljust(16 * 2**20, b"\0")
    (folder / "neon.png").write_bytes(data)
    assert (await http.get("/v1/loras/neon/preview")).content == data
    (folder / "neon.png").write_bytes(data + b"\0")
    assert (await http.get("/v1/loras/neon/preview")).status_code == 404


async def test_a_preview_lies_below_the_prefix_of_the_application(
    pipeline: Pipeline, blobs: BlobStore, folder: Path
) -> None:
    (folder / "neon.png").write_bytes(encoded(noise(8, 8)))
    app = build_app(pipeline, blobs, max_body_bytes=1000)
    transport = httpx2.ASGITransport(app, root_path="/studio")
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/studio/v1/loras/neon", "/studio/"):
            described = (await client.get(path)).json()
            [lora] = [one for one in described.get("loras", [described]) if one["id"] == "neon"]
            assert lora["preview"] == "/studio/v1/loras/neon/preview"


async def test_a_slow_folder_does_not_hold_up_other_requests(
    http: httpx2.AsyncClient, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_looking, may_look = threading.Event(), threading.Event()

    def slowly() -> object:
        is_looking.set()
        assert may_look.wait(30)
        return found

    found = catalogue.loras.look()
    monkeypatch.setattr(catalogue.loras, "look", slowly)
    paths = ("/v1/loras", "/v1/loras/neon", "/v1/loras/neon/preview", "/loras", "/")
    for path in paths:
        is_looking.clear()
        may_look.clear()
        asked = asyncio.create_task(http.get(path))
        assert await asyncio.to_thread(is_looking.wait, 30)
        assert (await http.get("/health")).status_code == 200
        may_look.set()
        assert (await asked).status_code in (200, 404)


async def test_generations_take_loras_and_tags(http: httpx2.AsyncClient, stages: RecordingStages) -> None:
    body = {**_QUICK, "prompt": "a circle <lora:pastel:0.5>", "loras": [{"name": "neon"}]}
    answer = await http.post(_GENERATIONS, json=body)
    parameters = answer.json()["data"][0]["parameters"]
    assert parameters["prompt"] == "a circle, neon style"
    assert parameters["loras"] == [{"model": "neon", "weight": 0.8}, {"model": "pastel", "weight": 0.5}]
    assert (await http.post(_GENERATIONS, json=parameters)).json()["data"][0]["parameters"] == parameters
    assert _requested(stages) == [(Lora("neon", 0.8), Lora("pastel", 0.5))] * 2


async def test_the_files_metadata_say_which_trigger_words_were_added(http: httpx2.AsyncClient) -> None:
    answer = await http.post(_GENERATIONS, json={**_QUICK, "loras": [{"model": "neon"}]})
    file = answer.json()["data"][0]["b64_json"]
    inspected = (await http.post("/v1/images/inspect", json={"image": file})).json()
    assert inspected["trigger_words_added"] == ["neon style"]
    assert inspected["parameters"]["loras"] == [{"model": "neon", "weight": 0.8}]
    assert inspected["infotext"].startswith("a circle, neon style <lora:neon:0.8>\n")


@pytest.mark.parametrize(
    "fields",
    [
        [("loras", json.dumps([{"model": "neon", "weight": 0.5}, {"model": "pastel"}]))],
        [
            ("loras[][name]", "neon"),
            ("loras[][weight]", "0.5"),
            ("loras[][name]", "pastel"),
            ("loras[][weight]", "1"),
        ],
        [("loras[][model]", "neon"), ("loras[][weight]", "0.5"), ("prompt", "a circle <lora:pastel>")],
    ],
)
async def test_forms_take_loras_as_json_or_field_by_field(
    http: httpx2.AsyncClient, stages: RecordingStages, fields: list[tuple[str, str]]
) -> None:
    given = {"prompt": "a circle", "num_inference_steps": "2", "size": "64x64", **dict(fields)}
    parts = [
        (name, (None, value))
        for name, value in [
            *((n, v) for n, v in given.items() if "[" not in n),
            *[(name, value) for name, value in fields if "[" in name],
        ]
    ]
    answer = await http.post("/v1/images/edits", files=[("image", ("upload", encoded(noise(64, 64)))), *parts])
    assert answer.status_code == 200, answer.text
    assert _requested(stages) == [(Lora("neon", 0.5), Lora("pastel", 1))]


async def test_the_openai_client_sends_loras(client: openai.AsyncOpenAI, stages: RecordingStages) -> None:
    ours: dict[str, Any] = {"num_inference_steps": 2, "loras": [{"name": "neon", "weight": 0.5}]}
    await client.images.generate(prompt="a circle", size="auto", extra_body=ours)
    image = base64.b64decode(as_base64(noise(64, 64)))
    await client.images.edit(image=image, prompt="a circle", extra_body=ours)
    assert _requested(stages) == [(Lora("neon", 0.5),)] * 2


async def test_streams_take_loras(http: httpx2.AsyncClient, stages: RecordingStages) -> None:
    body = {**_QUICK, "prompt": "<lora:neon>", "stream": True}
    assert "image_generation.completed" in (await http.post(_GENERATIONS, json=body)).text
    assert _requested(stages) == [(Lora("neon", 0.8),)]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"loras": [{"model": "neom"}]}, 404, "lora_not_found", "loras[0].model"),
        ({"loras": [{"name": "neom"}]}, 404, "lora_not_found", "loras[0].name"),
        ({"prompt": "<lora:neom>"}, 404, "lora_not_found", "prompt"),
        ({"loras": [{"model": "neon", "weight": 5}]}, 400, "invalid_value", "loras[0].weight"),
        ({"loras": [{"model": "neon", "zoom": 5}]}, 400, "unknown_parameter", "loras[0].zoom"),
        ({"loras": [{"model": "neon"}] * 2}, 400, "invalid_value", "loras[1].model"),
        ({"loras": [{"model": "neon"}] * 9}, 400, "invalid_value", "loras"),
        ({"prompt": "a <lora:neon"}, 400, "invalid_value", "prompt"),
        ({"prompt": "a <lora:neon:1:1>"}, 400, "unsupported_value", "prompt"),
        ({"negative_prompt": "a <lora:neon:9>"}, 400, "invalid_value", "negative_prompt"),
    ],
)
async def test_loras_that_make_no_sense_are_refused_before_any_work(
    http: httpx2.AsyncClient,
    stages: RecordingStages,
    fields: dict[str, object],
    status: int,
    code: str,
    param: str,
) -> None:
    answer = await http.post(_GENERATIONS, json={**_QUICK, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert answer.headers["x-should-retry"] == "false"
    assert stages.calls == []
