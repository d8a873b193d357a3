from __future__ import annotations

import io

from atelier.models.progress import ProgressLines


class _EveryTime(ProgressLines):
    interval_s = 0


def test_bytes_are_counted_in_lines() -> None:
    log = io.StringIO()
    bar = _EveryTime(total=4000, unit="B", unit_scale=True, desc="Downloading", file=log, mininterval=0)
    for _ in range(2):
        bar.update(1000)
    bar.close()
    lines = log.getvalue().splitlines()
    assert [line.split("|")[0] for line in lines] == ["  Downloading:  25%", "  Downloading:  50%"]
    assert "\r" not in log.getvalue()


def test_lines_are_not_written_one_after_the_other() -> None:
    log = io.StringIO()
    bar = ProgressLines(total=4000, unit="B", file=log, mininterval=0)
    bar.update(1000)
    bar.close()
    assert log.getvalue() == ""


def test_other_bars_are_silent() -> None:
    log = io.StringIO()
    bar = _EveryTime(range(3), unit="it", file=log, mininterval=0)
    assert list(bar) == [0, 1, 2]
    assert log.getvalue() == ""
