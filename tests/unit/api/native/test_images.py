"""Our own images routes: images enlarged, annotated and fetched."""

from __future__ import annotations

import base64
import time

import httpx2
import numpy as np
import pytest
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from tests.pictures import as_base64 as _base64
from tests.pictures import decoded as _picture
from tests.pictures import encoded, noise, pixels_of
from tests.stages import RecordingStages


@pytest.mark.parametrize(("scale", "size"), [(4, (100, 60)), (2.5, (62, 38)), (1, (25, 15)), (None, (100, 60))])
async def test_an_image_is_enlarged(http: httpx2.AsyncClient, scale: float | None, size: tuple[int, int]) -> None:
    body = {"image": _base64(Image.new("RGB", (25, 15), "orange")), "scale": scale}
    answer = (await http.post("/v1/images/upscale", json=body)).json()
    assert (answer["upscaler"], answer["size"]) == ("tiny-x4", f"{size[0]}x{size[1]}")
    picture = _picture(answer["data"][0]["b64_json"])
    assert picture.size == size
    assert np.abs(np.asarray(picture).astype(int) - (255, 165, 0)).mean() < 12


async def test_transparency_is_kept_and_uploads_are_taken(http: httpx2.AsyncClient) -> None:
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (8, 0, 16, 16))
    data = base64.b64decode(_base64(picture))
    form = {"scale": "2", "output_format": "webp"}
    answer = await http.post("/v1/images/upscale", data=form, files={"image": ("upload", data)})
    large = _picture(answer.json()["data"][0]["b64_json"])
    assert (large.size, large.mode) == ((32, 32), "RGBA")
    alpha = np.asarray(large)[..., 3]
    assert alpha[:, :12].min() > 240
    assert alpha[:, 20:].max() < 15
    jpeg = await http.post(
        "/v1/images/upscale", data={**form, "output_format": "jpeg"}, files={"image": ("upload", data)}
    )
    assert np.asarray(_picture(jpeg.json()["data"][0]["b64_json"]))[:, 24:].min() > 240


async def test_enhance_media_answers_a_data_url(http: httpx2.AsyncClient) -> None:
    image = f"data:image/png;base64,{_base64(Image.new('RGB', (10, 20), 'green'))}"
    answer = (await http.post("/enhance-media", json={"image": image, "scale": 4.0})).json()
    assert answer["image"].startswith("data:image/png;base64,")
    assert _picture(answer["image"].partition(",")[2]).size == (40, 80)
    assert (answer["width"], answer["height"], answer["model"], answer["is_fallback"]) == (40, 80, "tiny-x4", False)


async def test_an_opaque_alpha_channel_is_dropped(http: httpx2.AsyncClient) -> None:
    body = {"image": _base64(Image.new("RGBA", (16, 16), (255, 0, 0, 255)))}
    answer = (await http.post("/v1/images/upscale", json=body)).json()
    assert _picture(answer["data"][0]["b64_json"]).mode == "RGB"


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/images/upscale", {}, 400, "image"),
        ("/v1/images/upscale", {"image": "AAAA"}, 400, "image"),
        ("/v1/images/upscale", {"image": _base64(Image.new("RGB", (8, 8))), "scale": 5}, 400, "scale"),
        ("/v1/images/upscale", {"image": _base64(Image.new("RGB", (2000, 2000)))}, 400, "scale"),
        ("/v1/images/upscale", {"image": _base64(Image.new("1", (4096, 1025))), "scale": 1}, 400, "scale"),
        ("/v1/images/upscale", {"image": _base64(Image.new("1", (1_048_577, 1))), "scale": 1}, 400, "scale"),
        (
            "/v1/images/upscale",
            {"image": _base64(Image.new("1", (4200, 8))), "output_format": "webp"},
            400,
            "output_format",
        ),
        (
            "/v1/images/upscale",
            {"image": _base64(Image.new("1", (16_400, 4))), "output_format": "jpeg"},
            400,
            "output_format",
        ),
        (
            "/v1/images/upscale",
            {"image": _base64(Image.new("RGB", (8, 8))), "output_compression": 50},
            400,
            "output_compression",
        ),
        ("/v1/images/upscale", {"image": _base64(Image.new("RGB", (8, 8))), "model": "x"}, 404, "model"),
        ("/enhance-media", {"image": "%"}, 400, "image"),
    ],
)
async def test_what_cannot_be_enlarged_is_refused_by_name(
    http: httpx2.AsyncClient, path: str, body: dict[str, object], status: int, param: str
) -> None:
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_an_enlarged_image_is_described(http: httpx2.AsyncClient) -> None:
    before = int(time.time())
    body = {"image": _base64(noise(24, 16)), "scale": 2, "output_format": "webp", "output_compression": 40}
    answer = (await http.post("/v1/images/upscale", json=body)).json()
    assert before <= answer["created"] <= time.time()
    assert {name: value for name, value in answer.items() if name not in ("created", "data")} == {
        "output_format": "webp",
        "size": "48x32",
        "upscaler": "tiny-x4",
    }
    [file] = answer["data"]
    assert file.keys() == {"b64_json"}
    assert _picture(file["b64_json"]).format == "WEBP"
    larger = (await http.post("/v1/images/upscale", json={**body, "output_compression": 100})).json()
    assert len(larger["data"][0]["b64_json"]) > len(file["b64_json"])


async def test_an_enlarged_image_may_be_behind_a_url(http: httpx2.AsyncClient) -> None:
    body = {"image": _base64(noise(24, 16)), "scale": 2, "output_format": "jpeg", "response_format": "url"}
    [file] = (await http.post("/v1/images/upscale", json=body)).json()["data"]
    assert file.keys() == {"url"}
    fetched = await http.get(file["url"])
    assert fetched.headers["content-type"] == "image/jpeg"
    assert _picture(fetched.content).size == (48, 32)
    assert "content-disposition" not in fetched.headers


async def test_enhance_media_says_when_it_fell_back_to_bicubic(
    http: httpx2.AsyncClient, pipeline: Pipeline, small_catalogue: Catalogue
) -> None:
    pipeline.catalogue = small_catalogue.model_copy(update={"upscalers": ()})
    answer = (await http.post("/enhance-media", json={"image": _base64(noise(10, 20)), "scale": 1.5})).json()
    assert {name: value for name, value in answer.items() if name != "image"} == {
        "width": 15,
        "height": 30,
        "scale": 1.5,
        "model": "bicubic",
        "is_fallback": True,
    }


async def test_enhance_media_takes_an_upscaler_by_name(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/enhance-media", json={"image": _base64(noise(8, 8)), "model": "nope"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
    answer = await http.post("/enhance-media", json={"image": _base64(noise(8, 8)), "model": "tiny-x4"})
    assert answer.json()["scale"] == 4


async def test_a_control_map_is_drawn_from_json_or_a_form(http: httpx2.AsyncClient, stages: RecordingStages) -> None:
    picture = noise(32, 24)
    by_json = await http.post("/v1/images/annotate", json={"image": _base64(picture), "kind": "canny"})
    by_form = await http.post(
        "/v1/images/annotate", data={"kind": "canny"}, files={"image": ("upload", encoded(picture))}
    )
    assert by_json.json() == by_form.json()
    assert by_json.json().keys() == {"kind", "b64_json"}
    assert by_json.json()["kind"] == "canny"
    drawn = pixels_of(by_json.json()["b64_json"])
    [(_, pixels), _] = stages.args_of("annotate")
    assert np.array_equal(pixels, np.asarray(picture))  # type: ignore[arg-type]
    assert drawn.shape == (24, 32, 3)
    assert drawn.any()


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"kind": "canny"}, "image"), ({"image": "AAAA", "kind": "canny"}, "image"), ({"image": "AAAA"}, "kind")],
)
async def test_what_cannot_be_annotated_is_refused_by_name(
    http: httpx2.AsyncClient, fields: dict[str, object], param: str
) -> None:
    answer = await http.post("/v1/images/annotate", json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(("suffix", "pillows"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_a_stored_file_is_served_with_its_media_type(
    http: httpx2.AsyncClient, blobs: BlobStore, suffix: str, pillows: str
) -> None:
    data = encoded(noise(24, 16), pillows)
    answer = await http.get(f"/v1/images/files/{await blobs.put(data, suffix)}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{suffix}")
    assert answer.content == data


@pytest.mark.parametrize("name", ["x.png", f"{'0' * 64}.png", f"{'0' * 64}.exe", "..%2F..%2Fetc%2Fpasswd"])
async def test_no_other_file_can_be_fetched(http: httpx2.AsyncClient, name: str) -> None:
    assert (await http.get(f"/v1/images/files/{name}")).status_code == 404
