from __future__ import annotations

from atelier.pipeline.events import Reports, Step


def test_the_time_left_follows_from_the_speed_so_far() -> None:
    assert Step(step=2, total=8, elapsed_s=3.0).eta_s == 9.0
    assert Step(step=8, total=8, elapsed_s=3.0).eta_s == 0


def test_nothing_is_reported_by_default() -> None:
    assert (Reports().steps, Reports().num_previews, Reports().latent_rgb) == (False, 0, None)
