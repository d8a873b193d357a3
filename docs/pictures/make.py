"""The strip of pictures in the README, made by a running server.

`make run` starts a server; `python -m docs.pictures.make` then asks it for the pictures and writes `strip.png`.
Seeds are fixed, so the strip changes only if the model or the requests do.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

_FILE = Path(__file__).parent / "strip.png"
_PROMPT = "a yellow star and a purple ring, black background"
_ALONG_EDGES = "a red star and a white ring, blue background"
_EDIT = "a yellow star and a green circle, black background"
#: The part of the first picture that the edit paints anew: left, top, right, bottom.
_MASKED_PX = (62, 20, 128, 100)
#: The part of the first picture that the last panel shows enlarged: left, top, right, bottom.
_DETAIL_PX = (32, 27, 96, 91)
#: Side of a panel, side of the input image in its corner, gap between panels, height of a caption, all in pixels.
_PANEL_PX, _CORNER_PX, _GAP_PX, _CAPTION_PX = 256, 70, 16, 76
_INK, _GREY, _PAPER = "#1a1a1a", "#5c5c5c", "#ffffff"


def main() -> None:
    """Request the pictures from the server and write them as a strip of four panels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    server = _Server(parser.parse_args().address)
    drawn = server.generate({"prompt": _PROMPT, "seed": 13})
    edges = server.annotate(drawn)
    along = server.generate(
        {"prompt": _ALONG_EDGES, "seed": 2, "controls": [{"kind": "canny", "image": _base64(edges)}]}
    )
    edited = server.generate(
        {
            "prompt": _EDIT,
            "seed": 5,
            "init_image": _base64(drawn),
            "mask_image": _base64(_mask(drawn)),
            "strength": 1,
        }
    )
    enlarged = server.upscale(drawn)
    panels = [
        (_panel(drawn), "A prompt", f"“{_PROMPT}”"),
        (_panel(along, edges), "Edges, and a picture along them", f"“{_ALONG_EDGES}”"),
        (_panel(edited, _mask_overlay(drawn)), "A mask, and an edit inside it", f"“{_EDIT}”"),
        (_comparison(drawn, enlarged), "Four times larger", "left: 128 by 128 pixels; right: 512 by 512, by tiny-x4"),
    ]
    _compose(panels).quantize(128).save(_FILE, optimize=True)


class _Server:
    """A client of a running server, with the requests that the strip needs."""

    def __init__(self, address: str) -> None:
        self._address = address

    def generate(self, fields: dict[str, object]) -> Image.Image:
        return _opened(self._post("generations", {**fields, "num_inference_steps": 30})["data"][0]["b64_json"])

    def annotate(self, image: Image.Image) -> Image.Image:
        return _opened(self._post("annotate", {"image": _base64(image), "kind": "canny"})["b64_json"])

    def upscale(self, image: Image.Image) -> Image.Image:
        return _opened(self._post("upscale", {"image": _base64(image), "scale": 4})["data"][0]["b64_json"])

    def _post(self, name: str, fields: dict[str, object]) -> Any:
        request = urllib.request.Request(
            f"{self._address}/v1/images/{name}", json.dumps(fields).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)


def _opened(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json))).convert("RGB")


def _base64(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _mask(image: Image.Image) -> Image.Image:
    """Return the mask of the edit: white in the part that it repaints, black elsewhere."""
    mask = Image.new("RGB", image.size, "black")
    ImageDraw.Draw(mask).rectangle(_MASKED_PX, fill="white")
    return mask


def _mask_overlay(image: Image.Image) -> Image.Image:
    """Return the image with the part that the edit repaints in grey."""
    overlay = image.copy()
    ImageDraw.Draw(overlay).rectangle(_MASKED_PX, fill="#b8b8b8")
    return overlay


def _panel(result: Image.Image, source: Image.Image | None = None) -> Image.Image:
    """Return the result as a panel, with the input image that it was made from in a corner."""
    panel = result.resize((_PANEL_PX, _PANEL_PX), Image.Resampling.LANCZOS)
    if source is not None:
        corner = source.resize((_CORNER_PX, _CORNER_PX), Image.Resampling.LANCZOS)
        framed = ImageOps.expand(corner, border=(3, 3, 0, 0), fill=_PAPER)
        panel.paste(framed, (_PANEL_PX - framed.width, _PANEL_PX - framed.height))
    return panel


def _comparison(image: Image.Image, enlarged: Image.Image) -> Image.Image:
    """Return a panel of one detail: the left half from the image, the right half from its enlarged version."""
    scale = enlarged.width // image.width
    left, top, right, bottom = _DETAIL_PX
    panel = image.crop(_DETAIL_PX).resize((_PANEL_PX, _PANEL_PX), Image.Resampling.NEAREST)
    large = enlarged.crop((left * scale, top * scale, right * scale, bottom * scale)).resize(panel.size)
    half = _PANEL_PX // 2
    panel.paste(large.crop((half, 0, _PANEL_PX, _PANEL_PX)), (half, 0))
    ImageDraw.Draw(panel).line((half, 0, half, _PANEL_PX), fill=_PAPER, width=3)
    return panel


def _compose(panels: list[tuple[Image.Image, str, str]]) -> Image.Image:
    """Paste panels side by side, each with its title and its text below."""
    width = len(panels) * (_PANEL_PX + _GAP_PX) - _GAP_PX
    strip = Image.new("RGB", (width, _PANEL_PX + _CAPTION_PX), _PAPER)
    draw = ImageDraw.Draw(strip)
    title_font, text_font = ImageFont.load_default(17), ImageFont.load_default(14)
    for index, (picture, title, text) in enumerate(panels):
        x = index * (_PANEL_PX + _GAP_PX)
        strip.paste(picture, (x, 0))
        draw.text((x, _PANEL_PX + 8), title, fill=_INK, font=title_font)
        draw.multiline_text(
            (x, _PANEL_PX + 31), _wrapped(draw, text, text_font), fill=_GREY, font=text_font, spacing=3
        )
    return strip


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Break the text into lines no wider than a panel."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= _PANEL_PX:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
