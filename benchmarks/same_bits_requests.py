"""The 60 requests of every kind that `benchmarks.same_bits` sends, and the images that some of them contain."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

#: Prefix of field values that name an input image, as in `@scene`.
IMAGE_PREFIX = "@"
_SIDE_PX = 128
_CIRCLE, _STAR = (
    "a large red circle on the left, white background",
    "a small yellow star at the top, black background",
)
_LONG = ", ".join(
    f"a {size} {colour} {shape}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue", "yellow")
    for shape in ("circle", "square", "star", "ring", "triangle")
)
_ORIENTATION, _TURNED = 0x0112, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCase:
    """One request, under a name that describes it."""

    name: str
    path: str
    fields: Mapping[str, object]
    is_form: bool = False


def input_images() -> dict[str, bytes]:
    """Return the image files by their names, which follow `IMAGE_PREFIX` in the fields of requests."""
    scene = _scene(_SIDE_PX, _SIDE_PX)
    noise = np.random.default_rng(0).integers(0, 255, (72, 96, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[_ORIENTATION] = _TURNED
    return {
        "scene": _file(scene, "PNG"),
        "turned": _file(_scene(200, 120), "JPEG", quality=92, exif=turned),
        "noise": _file(Image.fromarray(noise), "WEBP", lossless=True),
        "small": _file(_with_hole(_scene(40, 56)), "PNG"),
        "hole": _file(_with_hole(scene), "PNG"),
        "light_mask": _file(_disc("black", fill="white"), "PNG"),
        "clear_mask": _file(_with_hole(Image.new("RGB", scene.size, "black")), "PNG"),
        "markup": _file(_disc((0, 0, 0, 0), fill="blue"), "PNG"),
        "edges": _file(_disc("black", outline="white"), "PNG"),
        "depth": _file(_disc("#202020", fill="#c0c0c0"), "PNG"),
    }


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _scene(width: int, height: int) -> Image.Image:
    """Draw a disc and a bar on a colour gradient."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(255, 0, height))
    image = Image.fromarray(np.stack([across, down, (across + down) / 2], axis=-1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 8, height // 4, width // 2, 3 * height // 4), fill="red")
    draw.rectangle((5 * width // 8, height // 8, 3 * width // 4, 7 * height // 8), fill="navy")
    return image


def _with_hole(image: Image.Image) -> Image.Image:
    """Return the image with a transparent ellipse in its middle."""
    cut = image.convert("RGBA")
    width, height = cut.size
    ImageDraw.Draw(cut).ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill=(0, 0, 0, 0))
    return cut


def _disc(
    background: str | tuple[int, int, int, int], *, fill: str | None = None, outline: str | None = None
) -> Image.Image:
    """Draw a disc on a plain background."""
    image = Image.new("RGB" if isinstance(background, str) else "RGBA", (_SIDE_PX, _SIDE_PX), background)
    ImageDraw.Draw(image).ellipse((24, 40, 88, 104), fill=fill, outline=outline, width=2)
    return image


def _generation(name: str, **fields: object) -> RequestCase:
    defaults = {"prompt": _CIRCLE, "seed": 7, "num_inference_steps": 8, "reproducibility": "exact"}
    return RequestCase(name=name, path="/v1/images/generations", fields={**defaults, **fields})


def _form(name: str, path: str, **fields: object) -> RequestCase:
    defaults = {"seed": 7, "num_inference_steps": 8, "reproducibility": "exact"}
    return RequestCase(name=name, path=path, fields={**defaults, **fields}, is_form=True)


def _annotation(kind: str, **fields: object) -> RequestCase:
    return RequestCase(name=f"annotate {kind}", path="/v1/images/annotate", fields={"kind": kind, **fields})


_SAMPLERS = (
    _generation("euler"),
    _generation("euler_a", sampler="euler_a"),
    _generation("ddim, eta 1", sampler="ddim", eta=1),
    _generation("dpmpp_2m", sampler="dpmpp_2m"),
    _generation("dpmpp_2m_sde", sampler="dpmpp_2m_sde"),
    _generation("lcm", sampler="lcm", num_inference_steps=4),
    _generation("unipc", sampler="unipc"),
    _generation("heun", sampler="heun"),
)
_SCHEDULES_AND_GUIDANCE = (
    _generation("normal, guidance 0", schedule="normal", guidance_scale=0, negative_prompt="a star"),
    _generation("trailing, guidance 1", schedule="trailing", guidance_scale=1),
    _generation("euler_a linspace, guidance 3.5", sampler="euler_a", schedule="linspace", guidance_scale=3.5),
    _generation("ddim trailing, eta 0.5", sampler="ddim", schedule="trailing", eta=0.5, guidance_scale=7.5),
    _generation("dpmpp_2m karras, guidance 12", sampler="dpmpp_2m", schedule="karras", guidance_scale=12),
    _generation("dpmpp_2m_sde exponential", sampler="dpmpp_2m_sde", schedule="exponential", guidance_rescale=0.3),
    _generation("lcm normal, guidance 1.5", sampler="lcm", schedule="normal", true_cfg_scale=1.5),
    _generation("unipc karras, WebP", sampler="unipc", schedule="karras", output_format="webp"),
    _generation("heun linspace, JPEG", sampler="heun", schedule="linspace", output_format="jpeg"),
    _generation("exponential, rescaled", schedule="exponential", guidance_scale=7.5, guidance_rescale=0.7),
)
_TEXTS_AND_SIZES = (
    _generation("prompt_2, 4 of 64x64", prompt_2=_STAR, size="64x64", n=4, seed=0, num_inference_steps=30),
    _generation(
        "negatives, last seeds", negative_prompt="a ring", negative_prompt_2=_STAR, size="96x128", n=2, seed=2**32 - 2
    ),
    _generation("empty texts", prompt_2="", negative_prompt="", negative_prompt_2="", size="128x96", n=3),
    _generation(
        "negative_prompt empty", prompt=_STAR, negative_prompt="", negative_prompt_2="a blue square", size="160x160"
    ),
    _generation("long prompt", prompt=_LONG, size="256x128"),
    _generation("long others", prompt_2=_LONG, negative_prompt=f"{_STAR}, {_LONG}", num_inference_steps=1),
)
_FROM_IMAGES = (
    _generation("from a picture, a little", init_image="@scene", strength=0.3),
    _generation("from a turned JPEG", init_image="@turned", sampler="dpmpp_2m"),
    _generation("from noise, wholly", init_image="@noise", strength=1, sampler="heun", size="128x128"),
    _generation("from a picture alone", prompt="", init_image="@scene", strength=0.6, sampler="unipc", n=2),
    _generation("light mask", prompt=_STAR, init_image="@scene", mask_image="@light_mask"),
    _generation("clear mask, other size", init_image="@scene", mask_image="@clear_mask", size="96x96", n=2),
    _generation("transparent picture", init_image="@hole", sampler="euler_a", strength=1),
    _generation("mark-up", prompt="", init_image="@scene", markup_image="@markup", strength=0.5),
    _form("edit", "/v1/images/edits", prompt=_STAR, image="@scene", mask="@clear_mask"),
    _form(
        "edit, marked up", "/v1/images/edits", prompt=_STAR, image="@scene", markup="@markup", input_fidelity="high"
    ),
    _form("variations", "/v1/images/variations", image="@scene", n=2, sampler="ddim"),
)
_QUALITIES = (
    _generation("low and vivid", quality="low", style="vivid", num_inference_steps=None),
    _generation("high and natural", quality="high", style="natural", num_inference_steps=None),
    _generation("xhigh", quality="xhigh", num_inference_steps=None),
    _generation("max", quality="max", num_inference_steps=None),
)
_CANNY, _DEPTH = {"kind": "canny", "image": "@edges"}, {"kind": "depth", "image": "@depth"}
_DRAWN_CANNY = {"kind": "canny", "image": "@scene", "annotate": True, "low_threshold": 50, "high_threshold": 150}
_DRAWN_DEPTH = {"kind": "depth", "image": "@scene", "annotate": True}
_CONTROLS = (
    _generation("canny, drawn", controls=[_DRAWN_CANNY], n=2),
    _generation("depth, for a while", controls=[{**_DEPTH, "start": 0.2, "end": 0.7}], sampler="dpmpp_2m_sde"),
    _generation("two controls", controls=[{**_CANNY, "scale": 0.6}, {**_DRAWN_DEPTH, "scale": 1.5}], size="128x160"),
    _generation("control by guessing", controls=[{**_CANNY, "guess_mode": True}]),
    _generation("control from a picture", controls=[_DRAWN_CANNY], init_image="@noise", strength=0.7),
)
_LARGER = (
    _generation("hires", hires={"scale": 2}, size="96x96"),
    _generation(
        "hires of two", n=2, hires={"scale": 1.5, "strength": 0.7, "steps": 5, "model": "tiny-x4"}, sampler="dpmpp_2m"
    ),
    _generation("four times, WebP", upscale={"scale": 4}, n=2, output_format="webp", output_compression=70),
    _generation("1.5 times, JPEG", upscale={"scale": 1.5}, output_format="jpeg", output_compression=80),
    _generation("hires, then twice", hires={"scale": 1.25}, upscale={"scale": 2, "model": "tiny-x4"}),
    RequestCase(name="upscale", path="/v1/images/upscale", fields={"image": "@turned", "scale": 2}, is_form=True),
    RequestCase(
        name="upscale a transparent one",
        path="/v1/images/upscale",
        fields={"image": "@small", "scale": 3, "output_format": "webp"},
    ),
    RequestCase(name="enhance-media", path="/enhance-media", fields={"image": "@scene", "scale": 1.5}),
)
_STREAMED = (
    _generation("stream of two", stream=True, partial_images=3, progress=True, n=2),
    _generation("stream, hires", stream=True, partial_images=1, progress=True, hires={"scale": 1.5}),
    _form(
        "stream of an edit",
        "/v1/images/edits",
        prompt=_STAR,
        image="@hole",
        stream=True,
        partial_images=2,
        controls=[_DRAWN_DEPTH],
        output_format="webp",
    ),
)
_ANNOTATIONS = (
    _annotation("canny", image="@turned", low_threshold=30, high_threshold=90),
    _annotation("softedge", image="@scene"),
    _annotation("lineart", image="@scene"),
    _annotation("scribble", image="@hole"),
    _annotation("depth", image="@noise"),
)
REQUESTS = (
    *_SAMPLERS,
    *_SCHEDULES_AND_GUIDANCE,
    *_TEXTS_AND_SIZES,
    *_FROM_IMAGES,
    *_QUALITIES,
    *_CONTROLS,
    *_LARGER,
    *_STREAMED,
    *_ANNOTATIONS,
)
