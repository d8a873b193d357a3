from __future__ import annotations

import itertools

import numpy as np

from atelier.control.calls import ControlContext
from atelier.core.conditioning import TextEmbeds


def _embeds(value: float, *, pooled: float = 0.0) -> TextEmbeds:
    return TextEmbeds(
        prompt_embeds=np.full((77, 4), value, dtype=np.float32),
        pooled_prompt_embeds=np.full(3, pooled, dtype=np.float32),
    )


def test_contexts_of_equal_content_have_equal_ids_and_others_do_not() -> None:
    image, a, b = np.zeros((8, 16, 3), dtype=np.uint8), _embeds(1), _embeds(2)
    contexts = [
        ControlContext.of("canny", image, {"negative": a, "positive": b}),
        ControlContext.of("depth", image, {"negative": a, "positive": b}),
        ControlContext.of("canny", image + 1, {"negative": a, "positive": b}),
        ControlContext.of("canny", image.reshape(16, 8, 3), {"negative": a, "positive": b}),
        ControlContext.of("canny", image, {"negative": b, "positive": a}),
        ControlContext.of("canny", image, {"negative": a}),
        ControlContext.of("canny", image, {"positive": a}),
        ControlContext.of("canny", image, {"negative": a, "positive": _embeds(2, pooled=1)}),
    ]
    for one, other in itertools.combinations(contexts, 2):
        assert one.context_id != other.context_id
    again = ControlContext.of("canny", image.copy(), {"positive": _embeds(2), "negative": _embeds(1)})
    assert again.context_id == contexts[0].context_id
