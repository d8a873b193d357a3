"""Contact sheets: many images on one, in columns, rows and pages, with labels."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image, ImageDraw, ImageFont

#: Largest side of an image on a sheet, and of the whole sheet, in pixels.
_MAX_CELL_PX, _MAX_SHEET_PX = 512, 8192
_GAP_PX, _FONT_PX = 8, 14
_LINE_PX = _FONT_PX + 6
_PAPER, _INK, _EMPTY = "white", "black", "#dddddd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A place on a sheet, and the labels of its column, row and page."""

    column: int
    row: int
    page: int
    column_label: str = ""
    row_label: str = ""
    page_label: str = ""


def contact_sheet(images: Sequence[tuple[Cell, bytes | str]]) -> bytes:
    """Draw images on one sheet, a PNG; each is a file that this server has written, or what to write in its place.

    Pages lie one below the other. All images are scaled down alike, so that no side of the sheet exceeds 8192 pixels.
    """
    sheet = _Sheet.fitting(images)
    drawing = ImageDraw.Draw(sheet.image)
    for cell, file in images:
        left, top = sheet.place(cell)
        if isinstance(file, bytes):
            with Image.open(io.BytesIO(file)) as picture:
                sheet.image.paste(picture.convert("RGB").resize(sheet.scaled(picture.size)), (left, top))
        else:
            drawing.rectangle((left, top, left + sheet.width - 1, top + sheet.height - 1), fill=_EMPTY)
            drawing.text((left + _GAP_PX, top + _GAP_PX), _wrapped(file, sheet.width), fill=_INK, font=_font())
        first_row = sheet.place(replace(cell, row=0))[1] - _LINE_PX
        drawing.text((left, top - _LINE_PX), cell.row_label if cell.column == 0 else "", fill=_INK, font=_font())
        drawing.text((left, first_row - _LINE_PX), cell.column_label, fill=_INK, font=_font())
        drawing.text((_GAP_PX, first_row - 2 * _LINE_PX), cell.page_label, fill=_INK, font=_font())
    buffer = io.BytesIO()
    sheet.image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """An empty sheet, and where its cells are."""

    image: Image.Image
    #: Scale of all images.
    scale: float
    #: Size of a cell in pixels.
    width: int
    height: int
    num_rows: int

    @classmethod
    def fitting(cls, images: Sequence[tuple[Cell, bytes | str]]) -> _Sheet:
        num_columns, num_rows, num_pages = (
            1 + max(getattr(cell, name) for cell, _ in images) for name in ("column", "row", "page")
        )
        sizes = [Image.open(io.BytesIO(file)).size for _, file in images if isinstance(file, bytes)]
        wide, high = (max((size[axis] for size in sizes), default=_MAX_CELL_PX) for axis in (0, 1))
        free_width = _MAX_SHEET_PX - _GAP_PX * (num_columns + 1)
        free_height = _MAX_SHEET_PX - num_pages * (2 * _LINE_PX + num_rows * (_LINE_PX + _GAP_PX))
        scale = min(
            1.0,
            _MAX_CELL_PX / max(wide, high),
            free_width / (num_columns * wide),
            free_height / (num_rows * num_pages * high),
        )
        width, height = max(int(wide * scale), 1), max(int(high * scale), 1)
        page_height = 2 * _LINE_PX + num_rows * (_LINE_PX + height + _GAP_PX)
        size = _GAP_PX + num_columns * (width + _GAP_PX), num_pages * page_height
        return cls(image=Image.new("RGB", size, _PAPER), scale=scale, width=width, height=height, num_rows=num_rows)

    def place(self, cell: Cell) -> tuple[int, int]:
        """Return the left and the upper edge of a cell's image."""
        row_height = _LINE_PX + self.height + _GAP_PX
        top = cell.page * (2 * _LINE_PX + self.num_rows * row_height) + 2 * _LINE_PX + cell.row * row_height
        return _GAP_PX + cell.column * (self.width + _GAP_PX), top + _LINE_PX

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of an image on the sheet."""
        width, height = (max(int(side * self.scale), 1) for side in size)
        return width, height


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)


def _wrapped(text: str, width_px: int) -> str:
    """Return text in lines that fit into a width."""
    return "\n".join(textwrap.wrap(text, max((width_px - 2 * _GAP_PX) * 2 // _FONT_PX, 1)))
