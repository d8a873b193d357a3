from __future__ import annotations

from atelier.api.openai.answers import usage
from atelier.pipeline.results import Usage


def test_usage_is_in_openais_form() -> None:
    assert usage(Usage(text_tokens=5, input_image_tokens=64, output_image_tokens=200)).model_dump() == {
        "input_tokens": 69,
        "input_tokens_details": {"text_tokens": 5, "image_tokens": 64},
        "output_tokens": 200,
        "output_tokens_details": {"image_tokens": 200, "text_tokens": 0},
        "total_tokens": 269,
    }
