"""Input images: the official client's multipart calls, our JSON fields, and inputs that are refused."""

from __future__ import annotations

import base64
import zlib
from random import Random
from typing import Any, cast

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from tests.pictures import decoded, encoded
from tests.stages import RecordingStages
from zoo.scenes import Description, Thing, arrange, draw

_QUICK = {"num_inference_steps": 3, "seed": 3}
_SCENE = arrange(
    Description(things=(Thing(colour="red", shape="circle"),), background="white"), Random(1), width=128, height=96
)


def _opened(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    return decoded(b64_json)


def _mask(alpha: bool) -> Image.Image:
    """A mask that selects the right half for painting: by transparency if `alpha`, else by white."""
    mask = np.zeros((96, 128, 4), dtype=np.uint8)
    mask[..., 3] = 255
    mask[:, 64:] = (0, 0, 0, 0) if alpha else (255, 255, 255, 255)
    return Image.fromarray(mask) if alpha else Image.fromarray(mask).convert("L")


@pytest.mark.parametrize("kind", ["transparent", "L", "RGBA", "LA", "1"])
async def test_an_edit_with_a_mask_keeps_the_rest(client: openai.AsyncOpenAI, kind: str) -> None:
    """The mask's transparency selects where to paint or, if the mask is opaque, its white does."""
    mask = _mask(alpha=True) if kind == "transparent" else _mask(alpha=False).convert(kind)
    answer = await client.images.edit(
        image=encoded(draw(_SCENE)), mask=encoded(mask), prompt="a blue square", n=2, extra_body=_QUICK
    )
    assert answer.data is not None
    assert len(answer.data) == 2
    edited = np.asarray(_opened(answer.data[0].b64_json))
    original = np.asarray(draw(_SCENE))
    assert np.array_equal(edited[:, :64], original[:, :64])
    assert not np.array_equal(edited[:, 64:], original[:, 64:])


async def test_a_transparent_image_is_its_own_mask(client: openai.AsyncOpenAI) -> None:
    picture = draw(_SCENE).convert("RGBA")
    picture.putalpha(_mask(alpha=True).getchannel("A"))
    answer = await client.images.edit(image=[encoded(picture)], prompt="a blue square", extra_body=_QUICK)
    assert answer.data is not None
    edited = np.asarray(_opened(answer.data[0].b64_json))
    assert np.array_equal(edited[:, :64], np.asarray(draw(_SCENE))[:, :64])


async def test_an_opaque_alpha_channel_is_no_mask(client: openai.AsyncOpenAI) -> None:
    options: dict[str, Any] = {"prompt": "a blue square", "extra_body": _QUICK}
    opaque, plain = [
        await client.images.edit(image=encoded(draw(_SCENE).convert(mode)), **options) for mode in ("RGBA", "RGB")
    ]
    assert opaque.data is not None
    assert plain.data is not None
    assert opaque.data[0].b64_json == plain.data[0].b64_json
    assert not np.array_equal(np.asarray(_opened(opaque.data[0].b64_json)), np.asarray(draw(_SCENE)))


@pytest.mark.parametrize("field", ["mask", "markup"])
async def test_an_empty_upload_is_a_broken_image(client: openai.AsyncOpenAI, field: str) -> None:
    uploads: dict[str, Any] = {"image": encoded(draw(_SCENE)), field: b""}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.images.edit(prompt="x", **uploads)
    assert caught.value.param == field


async def test_the_image_of_a_form_has_one_name(client: openai.AsyncOpenAI) -> None:
    picture = encoded(draw(_SCENE))
    with pytest.raises(openai.BadRequestError, match="init_image: send the image as image here") as caught:
        await client.images.edit(
            image=picture, prompt="x", extra_body={"init_image": base64.b64encode(picture).decode()}
        )
    assert caught.value.param == "init_image"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_a_variation_can_be_made_again(client: openai.AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    picture = encoded(draw(_SCENE))
    answer = await client.images.create_variation(image=picture, extra_body=_QUICK)
    assert answer.data is not None
    [varied] = cast(Any, answer.data)
    again = {**varied.parameters, "init_image": base64.b64encode(picture).decode()}
    repeated = await http.post("/v1/images/generations", json=again)
    assert repeated.json()["data"][0]["b64_json"] == varied.b64_json


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_a_variation_has_the_size_of_its_image_and_departs_by_six_tenths(
    client: openai.AsyncOpenAI, stages: RecordingStages
) -> None:
    answer = await client.images.create_variation(image=encoded(draw(_SCENE), "WEBP"), n=1, extra_body=_QUICK)
    assert answer.data is not None
    assert _opened(answer.data[0].b64_json).size == (128, 96)
    [request] = stages.requests
    assert request.pass_.sampling.strength == 0.6


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_a_variation_is_like_its_image_and_not_the_same(zoo_client: openai.AsyncOpenAI) -> None:
    departures = []
    for strength in (0.2, 0.6, 1.0):
        ours = {"num_inference_steps": 10, "seed": 3, "strength": strength}
        answer = await zoo_client.images.create_variation(image=encoded(draw(_SCENE)), extra_body=ours)
        assert answer.data is not None
        varied = np.asarray(_opened(answer.data[0].b64_json)).astype(int)
        departures.append(np.abs(varied - np.asarray(draw(_SCENE))).mean())
    assert 0 < departures[0] < departures[1] < departures[2]


async def test_several_images_are_not_supported(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.images.edit(image=[encoded(draw(_SCENE))] * 2, prompt="x")
    assert (caught.value.status_code, caught.value.param) == (501, "image")


@pytest.mark.parametrize("is_transparent", [False, True])
async def test_a_markup_guides_an_edit(
    client: openai.AsyncOpenAI, http: httpx2.AsyncClient, is_transparent: bool
) -> None:
    """A mark-up acts as if drawn on the image; transparent parts that it does not cover still serve as the mask."""
    original = Image.new("RGBA", (128, 96), "white")
    if is_transparent:
        original.putalpha(_mask(alpha=True).getchannel("A"))
    markup = Image.new("RGBA", (128, 96))
    markup.paste("red", (40, 20, 90, 60))
    drawn_on = Image.alpha_composite(original, markup)
    if not is_transparent:
        original, drawn_on = original.convert("RGB"), drawn_on.convert("RGB")
    options: dict[str, Any] = {"prompt": "a red square", "extra_body": {**_QUICK, "strength": 0.5}}
    guided = await client.images.edit(image=encoded(original), markup=encoded(markup), **options)
    expected = await client.images.edit(image=encoded(drawn_on), **options)
    plain = await client.images.edit(image=encoded(original), **options)
    assert guided.data is not None
    assert expected.data is not None
    assert plain.data is not None
    assert guided.data[0].b64_json == expected.data[0].b64_json != plain.data[0].b64_json
    by_json = await http.post(
        "/v1/images/generations",
        json={
            "prompt": "a red square",
            "init_image": base64.b64encode(encoded(original)).decode(),
            "markup_image": base64.b64encode(encoded(markup)).decode(),
            **options["extra_body"],
        },
    )
    assert by_json.json()["data"][0]["b64_json"] == guided.data[0].b64_json


@pytest.mark.parametrize(
    ("markup", "others", "expected"),
    [
        (Image.new("RGB", (128, 96)), {}, "markup: must be transparent where nothing is drawn"),
        (Image.new("RGBA", (64, 96)), {}, "markup: must be as large as image, 128x96; got 64x96"),
        (Image.new("RGBA", (128, 96)), {"mask": encoded(_mask(alpha=True))}, "markup goes without mask"),
    ],
)
async def test_a_markup_that_does_not_fit_is_refused(
    client: openai.AsyncOpenAI, markup: Image.Image, others: dict[str, Any], expected: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=expected) as caught:
        await client.images.edit(image=encoded(draw(_SCENE)), markup=encoded(markup), prompt="x", **others)
    assert caught.value.param == "markup"


async def test_a_form_takes_objects_field_by_field(client: openai.AsyncOpenAI) -> None:
    """The official client sends objects in forms as single fields, such as `upscale[scale]` and `svg[model]`."""
    answer = await client.images.edit(
        image=encoded(draw(_SCENE)), prompt="a circle", extra_body={**_QUICK, "upscale": {"scale": 2}}
    )
    assert answer.data is not None
    assert _opened(answer.data[0].b64_json).size == (256, 192)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.images.edit(
            image=encoded(draw(_SCENE)), prompt="x", svg={"model": "x", "reasoning": {"effort": "low"}}
        )
    assert (caught.value.param, caught.value.code) == ("svg", "unsupported_value")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["upscale[scale]", "upscale[scale]"], "more than once"),
        (["upscale", "upscale[scale]"], "two ways"),
        (["upscale[scale]", "upscale[][scale]"], "two ways"),
        (["controls", "controls[][scale]"], "two ways"),
        (["seed", "seed"], "more than once"),
    ],
)
async def test_a_field_that_is_sent_twice_is_refused(http: httpx2.AsyncClient, keys: list[str], message: str) -> None:
    files = [("image", ("x", encoded(draw(_SCENE)))), *((key, (None, b"2")) for key in keys)]
    answer = await http.post("/v1/images/edits", files=files)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == keys[0].partition("[")[0]
    assert message in error["message"]


async def test_json_takes_base64_with_or_without_a_data_url(http: httpx2.AsyncClient) -> None:
    sent = base64.b64encode(encoded(draw(_SCENE), "JPEG")).decode()
    bodies = [
        {"prompt": "a blue square", "init_image": f"{prefix}{sent}", "strength": 0.5, **_QUICK}
        for prefix in ("", "data:image/jpeg;base64,")
    ]
    first, second = [(await http.post("/v1/images/generations", json=body)).json()["data"][0] for body in bodies]
    assert first["parameters"]["strength"] == 0.5
    assert first["parameters"]["size"] == "128x96"
    assert first["b64_json"] == second["b64_json"]


async def test_an_image_is_turned_upright_and_fitted(http: httpx2.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = encoded(draw(_SCENE), "JPEG", exif=exif)
    body = {"prompt": "x", "init_image": base64.b64encode(lying).decode(), **_QUICK}
    upright = (await http.post("/v1/images/generations", json=body)).json()
    assert upright["size"] == "96x128"
    fitted = (await http.post("/v1/images/generations", json={**body, "size": "64x64"})).json()
    assert _opened(fitted["data"][0]["b64_json"]).size == (64, 64)


def _bomb() -> bytes:
    """A decompression bomb: a PNG whose header claims 50 000 × 50 000 pixels and which holds none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    header = (50_000).to_bytes(4) * 2 + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _broken() -> list[bytes]:
    good = [encoded(draw(_SCENE), output_format) for output_format in ("PNG", "JPEG", "WEBP")]
    random = Random(0)
    broken = [b"", b"not a picture", b"GIF89a", encoded(draw(_SCENE), "BMP"), _bomb()]
    broken += [data[: len(data) // 2] for data in good[:2]]
    broken += [data[: random.randrange(1, 60)] for data in good]
    return broken


@pytest.mark.parametrize("data", _broken(), ids=lambda data: f"{len(data)} bytes")
async def test_broken_images_are_refused_before_any_model_runs(
    http: httpx2.AsyncClient, stages: RecordingStages, data: bytes
) -> None:
    answers = [
        await http.post("/v1/images/edits", data={"prompt": "x"}, files={"image": ("upload", data)}),
        await http.post(
            "/v1/images/generations", json={"prompt": "x", "init_image": base64.b64encode(data).decode()}
        ),
    ]
    for answer, name in zip(answers, ("image", "init_image"), strict=True):
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, name)
        assert error["message"].startswith(name)
    assert stages.calls == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"strength": 0.5}, "strength"),
        ({"mask_image": "AAAA"}, "mask_image"),
        ({"init_image": "%%%"}, "init_image"),
        ({"init_image": 3}, "init_image"),
        ({"init_image": base64.b64encode(encoded(draw(_SCENE))).decode(), "strength": 0.01}, "strength"),
        (
            {
                "init_image": base64.b64encode(encoded(draw(_SCENE))).decode(),
                "mask_image": base64.b64encode(encoded(draw(_SCENE).resize((64, 64)))).decode(),
            },
            "mask_image",
        ),
    ],
)
async def test_fields_that_do_not_go_together_are_refused_by_name(
    http: httpx2.AsyncClient, fields: dict[str, object], param: str
) -> None:
    answer = await http.post("/v1/images/generations", json={"prompt": "x", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
        (b'{"prompt": "x"}', "application/json"),
        (
            b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n' * 2 + b"--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
    ],
)
async def test_broken_forms_are_refused(http: httpx2.AsyncClient, content: bytes, content_type: str) -> None:
    answer = await http.post("/v1/images/edits", content=content, headers={"content-type": content_type})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", ["image", "mask", "mask_image", "markup", "markup_image"])
async def test_errors_name_images_as_they_were_sent(http: httpx2.AsyncClient, field: str) -> None:
    files = {"image": ("x", encoded(draw(_SCENE))), field: ("x", b"broken")}
    answer = await http.post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert answer.json()["error"]["message"].startswith(f"{field}: not a readable image")


@pytest.mark.parametrize("path", ["edits", "variations"])
async def test_errors_of_a_streamed_form_are_named_so_too(http: httpx2.AsyncClient, path: str) -> None:
    form = {"prompt": "x", "stream": "true"}
    answer = await http.post(f"/v1/images/{path}", data=form, files={"image": ("x", b"broken")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


async def test_an_edit_departs_by_eight_tenths_or_half_with_high_fidelity(
    client: openai.AsyncOpenAI, stages: RecordingStages
) -> None:
    image = encoded(draw(_SCENE))
    await client.images.edit(image=image, prompt="x", extra_body=_QUICK)
    await client.images.edit(image=image, prompt="x", input_fidelity="high", extra_body=_QUICK)
    assert [request.pass_.sampling.strength for request in stages.requests] == [0.8, 0.5]
