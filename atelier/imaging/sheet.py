"""Contact sheets: many images on one, in columns, rows and pages, with labels."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from atelier.core.geometry import Size

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


class ContactSheet:
    """A sheet on which images are drawn one by one, so that one of them is in memory at a time.

    Pages lie one below the other. All images are scaled down alike, so that no side of the sheet exceeds 8192 pixels.
    """

    def __init__(self, cells: Sequence[Cell], sizes: Sequence[Size]) -> None:
        """Make an empty sheet with these cells for images of these sizes, which may be fewer."""
        num_columns = 1 + max(cell.column for cell in cells)
        num_pages = 1 + max(cell.page for cell in cells)
        self._num_rows = 1 + max(cell.row for cell in cells)
        wide = max((size.width for size in sizes), default=_MAX_CELL_PX)
        high = max((size.height for size in sizes), default=_MAX_CELL_PX)
        free_width = _MAX_SHEET_PX - _GAP_PX * (num_columns + 1)
        free_height = _MAX_SHEET_PX - num_pages * (2 * _LINE_PX + self._num_rows * (_LINE_PX + _GAP_PX))
        self._scale = min(
            1.0,
            _MAX_CELL_PX / max(wide, high),
            free_width / (num_columns * wide),
            free_height / (self._num_rows * num_pages * high),
        )
        self._width, self._height = self._scaled(wide, high)
        size = _GAP_PX + num_columns * (self._width + _GAP_PX), num_pages * self._page_height
        self._sheet = Image.new("RGB", size, _PAPER)
        self._drawing = ImageDraw.Draw(self._sheet)

    def draw(self, cell: Cell, file: bytes | str) -> None:
        """Draw a file that this server has written, or write what is said in its place, with the cell's labels."""
        left, top = self._place(cell)
        if isinstance(file, bytes):
            with Image.open(io.BytesIO(file)) as picture:
                self._sheet.paste(picture.convert("RGB").resize(self._scaled(*picture.size)), (left, top))
        else:
            self._drawing.rectangle((left, top, left + self._width - 1, top + self._height - 1), fill=_EMPTY)
            self._write(_wrapped(file, self._width), left + _GAP_PX, top + _GAP_PX)
        _, first_row = self._place(replace(cell, row=0))
        if cell.column == 0:
            self._write(cell.row_label, left, top - _LINE_PX)
        self._write(cell.column_label, left, first_row - 2 * _LINE_PX)
        self._write(cell.page_label, _GAP_PX, first_row - 3 * _LINE_PX)

    def file(self) -> bytes:
        """Return the sheet as a PNG file."""
        buffer = io.BytesIO()
        self._sheet.save(buffer, "PNG", compress_level=3)
        return buffer.getvalue()

    @property
    def _row_height(self) -> int:
        return _LINE_PX + self._height + _GAP_PX

    @property
    def _page_height(self) -> int:
        return 2 * _LINE_PX + self._num_rows * self._row_height

    def _place(self, cell: Cell) -> tuple[int, int]:
        """Return the left and the upper edge of a cell's image, below the labels of page, columns and row."""
        top = cell.page * self._page_height + cell.row * self._row_height + 3 * _LINE_PX
        return _GAP_PX + cell.column * (self._width + _GAP_PX), top

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        return max(int(width * self._scale), 1), max(int(height * self._scale), 1)

    def _write(self, text: str, left: int, top: int) -> None:
        self._drawing.text((left, top), text, fill=_INK, font=_font())


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)


def _wrapped(text: str, width_px: int) -> str:
    """Return text in lines that fit into a width."""
    return "\n".join(textwrap.wrap(text, max((width_px - 2 * _GAP_PX) * 2 // _FONT_PX, 1)))
