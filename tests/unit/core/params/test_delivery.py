from __future__ import annotations

from typing import get_args

from atelier.core.params.delivery import OUTPUT_FORMATS, OutputFormat, ResponseFormat


def test_files_are_png_jpeg_or_webp() -> None:
    assert OUTPUT_FORMATS == ("png", "jpeg", "webp") == get_args(OutputFormat)


def test_files_reach_the_client_as_base64_or_by_url() -> None:
    assert get_args(ResponseFormat) == ("b64_json", "url")
