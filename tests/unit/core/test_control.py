from __future__ import annotations

import numpy as np
import pytest

from atelier.core.control import (
    CANNY_THRESHOLDS,
    CONTROL_KINDS,
    MAX_CONTROL_SCALE,
    MAX_CONTROLS,
    Annotation,
    Control,
)
from atelier.core.geometry import Size


def _control(start: float = 0, end: float = 1) -> Control:
    return Control(
        controlnet="canny",
        control_image=np.zeros((16, 24, 3), dtype=np.uint8),
        controlnet_conditioning_scale=1,
        control_guidance_start=start,
        control_guidance_end=end,
    )


def test_depth_is_drawn_by_a_model_and_other_kinds_by_opencv() -> None:
    assert CONTROL_KINDS == {
        "canny": "opencv",
        "softedge": "opencv",
        "lineart": "opencv",
        "scribble": "opencv",
        "depth": "model",
    }


def test_bounds_and_defaults_of_controls() -> None:
    assert (MAX_CONTROLS, MAX_CONTROL_SCALE, CANNY_THRESHOLDS) == (4, 2.0, (100, 200))
    assert Annotation("canny") == Annotation("canny", low_threshold=100, high_threshold=200)


def test_a_control_acts_in_all_steps_and_without_guess_mode_by_default() -> None:
    control = Control(
        controlnet="x", control_image=np.zeros((8, 8, 3), dtype=np.uint8), controlnet_conditioning_scale=1
    )
    assert (control.control_guidance_start, control.control_guidance_end) == (0, 1)
    assert not control.guess_mode
    assert all(control.acts_at(index, 4) for index in range(4))


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 1), (0, 1.1)])
def test_a_window_without_steps_is_rejected(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="no steps from"):
        _control(start, end)


def test_the_size_is_that_of_the_control_image() -> None:
    assert _control().size == Size(width=24, height=16)


@pytest.mark.parametrize(
    ("start", "end", "num_steps", "acting"),
    [
        (0, 1, 5, [0, 1, 2, 3, 4]),
        (0.5, 1, 4, [2, 3]),
        (0, 0.5, 4, [0, 1]),
        (0.25, 0.75, 4, [1, 2]),
        (0.3, 0.8, 4, [2]),
        (0.6, 0.7, 4, []),
    ],
)
def test_a_control_acts_in_steps_that_lie_wholly_in_its_window(
    start: float, end: float, num_steps: int, acting: list[int]
) -> None:
    """Like `controlnet_keep` in diffusers: not in steps that begin before the start or end after the end."""
    control = _control(start, end)
    assert [index for index in range(num_steps) if control.acts_at(index, num_steps)] == acting
