from __future__ import annotations

import pytest

from atelier.pipeline.events import Reports, Step


def test_the_time_left_follows_from_the_speed_so_far() -> None:
    assert Step(step=2, total=8, elapsed_s=3.0).eta_s == 9.0
    assert Step(step=8, total=8, elapsed_s=3.0).eta_s == 0


def test_nothing_is_reported_by_default() -> None:
    assert (Reports().steps, Reports().num_previews, Reports().latent_rgb) == (False, 0, None)


def test_previews_need_a_projection() -> None:
    with pytest.raises(ValueError, match="previews need latent_rgb"):
        Reports(num_previews=1)
    assert Reports(num_previews=1, latent_rgb=((0, 0, 0),) * 5).num_previews == 1
