"""The picture of the Grafana dashboard, drawn from its JSON without Grafana.

`python -m docs.pictures.dashboard` starts a graph under load and a Prometheus (docs/pictures/watched.py), asks it for
the series of every panel as Grafana would, and draws the panels at their places into `dashboard.png`. It needs
Debian's `prometheus`, and what docs/requirements.txt names.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from docs.panels import Panel, concrete, panels, read_dashboard
from docs.pictures.watched import load, watched_graph

_FILE = Path(__file__).parent / "dashboard.png"
#: Interval of the values; time that is left out at the start, until rates have their first minute; time without load.
_STEP_S, _SKIPPED_S, _IDLE_S = 5, 45, 20
#: Width of a 24th of the dashboard, height of one of Grafana's rows, both in pixels; pixels per inch.
_COLUMN_PX, _ROW_PX, _DPI = 60, 32, 100
_INK, _GREY, _EDGE, _WARN = "#24292e", "#6e7781", "#d8dee4", "#e02f44"
_COLORS = (
    "#56a64b",
    "#f2cc0c",
    "#3274d9",
    "#ff780a",
    "#e02f44",
    "#a352cc",
    "#37872d",
    "#8ab8ff",
    "#b877d9",
    "#96d98d",
)
_STATE_COLORS = {"healthy": "#56a64b", "updating": "#f2cc0c", "upscaling": "#3274d9", "downscaling": "#3274d9"}

#: Units that stand beside the title, not at every value.
_LONG_UNITS = {"reqps": "requests/s", "suffix: images/s": "images/s", "suffix: steps/s": "steps/s", "bytes": "GiB"}


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one time series, with their times in seconds since 1970."""

    name: str
    times_s: Sequence[float]
    values: Sequence[float]


def main() -> None:
    """Run the graph under load, then draw the dashboard as it looks at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240, help="duration of the load")
    seconds: float = parser.parse_args().seconds
    with watched_graph() as (graph, prometheus):
        start_s = time.time()
        asyncio.run(load(graph, seconds=seconds))
        time.sleep(_IDLE_S)
        shown = [(panel, _series(prometheus, panel, start_s + _SKIPPED_S, time.time())) for panel in panels()]
    _check(shown)
    _draw(shown)


def _series(prometheus: str, panel: Panel, start_s: float, end_s: float) -> list[Series]:
    """Ask Prometheus for the series of a panel's queries."""
    found = []
    for query in panel.queries:
        answer = httpx2.get(
            f"{prometheus}/api/v1/query_range",
            params={"query": concrete(query.expression), "start": start_s, "end": end_s, "step": _STEP_S},
        )
        for result in answer.raise_for_status().json()["data"]["result"]:
            times_s, values = zip(*((float(at), float(value)) for at, value in result["values"]), strict=True)
            found.append(Series(_name(query.legend, result["metric"]), times_s, values))
    return found


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda matched: labels.get(matched[1], ""), legend)


def _check(shown: Sequence[tuple[Panel, Sequence[Series]]]) -> None:
    """Raise RuntimeError if a panel shows nothing; those of GPUs may."""
    empty = [panel.title for panel, series in shown if not series and "GPU" not in panel.title]
    if empty:
        raise RuntimeError(f"these panels show nothing: {', '.join(empty)}")


def _draw(shown: Sequence[tuple[Panel, Sequence[Series]]]) -> None:
    mpl.rcParams.update({"font.size": 8, "axes.edgecolor": _EDGE, "xtick.color": _GREY, "ytick.color": _GREY})
    num_rows = max(panel.y + panel.height for panel, _ in shown)
    figure = plt.figure(figsize=(24 * _COLUMN_PX / _DPI, num_rows * _ROW_PX / _DPI), dpi=_DPI)
    for row in read_dashboard()["panels"]:
        if row["type"] == "row":
            top = 1 - (row["gridPos"]["y"] + 0.65) / num_rows
            figure.text(0.006, top, row["title"], size=12, weight="bold", color=_INK, va="center")
    for panel, series in shown:
        left, bottom = panel.x / 24 + 0.042, 1 - (panel.y + panel.height - 1.9) / num_rows
        axes = figure.add_axes((left, bottom, panel.width / 24 - 0.054, (panel.height - 3.1) / num_rows))
        _draw_panel(axes, panel, series)
    file = io.BytesIO()
    figure.savefig(file)
    Image.open(file).convert("RGB").quantize(96).save(_FILE, optimize=True)


def _draw_panel(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    axes.set_title(panel.title, loc="left", size=9, weight="bold", color=_INK)
    axes.set_title(_LONG_UNITS.get(panel.unit, ""), loc="right", size=7, color=_GREY)
    axes.spines[["top", "right"]].set_visible(False)
    if not series:
        axes.text(0.5, 0.5, "No data", ha="center", color=_GREY, size=11, transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    if panel.states:
        _draw_states(axes, panel, series)
    else:
        _draw_lines(axes, panel, series)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at):%H:%M:%S}"))


def _draw_lines(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    if panel.is_stacked:
        times_s = sorted({at for one in series for at in one.times_s})
        known = [dict(zip(one.times_s, one.values, strict=True)) for one in series]
        rows = [[values.get(at, 0.0) for at in times_s] for values in known]
        axes.stackplot(times_s, rows, labels=[one.name for one in series], colors=_COLORS, alpha=0.5)
    else:
        for index, one in enumerate(series):
            axes.plot(one.times_s, one.values, label=one.name, color=_COLORS[index % len(_COLORS)], linewidth=1.1)
    top = max((value for one in series for value in one.values if not math.isnan(value)), default=1.0)
    if panel.threshold is not None and top > panel.threshold / 4:
        axes.axhline(panel.threshold, color=_WARN, linestyle="--", linewidth=0.9)
    axes.set_ylim(0, panel.maximum or (None if top else 1))
    axes.grid(axis="y", color=_EDGE, linewidth=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _with_unit(value, panel.unit)))
    is_long = len(series) > 6
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.09, -0.13), ncols=4 if is_long else 3, fontsize=6 if is_long else 7,
        frameon=False, columnspacing=1.2, handlelength=1.2, labelcolor=_INK, borderpad=0.2, labelspacing=0.3,
    )  # fmt: skip


def _draw_states(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    """Draw a bar per series, coloured by its state at each time."""
    for index, one in enumerate(series):
        for at, value in zip(one.times_s, one.values, strict=True):
            color = _STATE_COLORS.get(panel.states[value], _WARN)
            axes.barh(index, _STEP_S, left=at, height=0.7, color=color)
        state = panel.states[one.values[-1]]
        axes.text(one.times_s[0] + _STEP_S, index, state, va="center", color="white", size=8)
    axes.set_yticks(range(len(series)), [one.name for one in series])
    axes.tick_params(axis="y", length=0, labelsize=7)


def _with_unit(value: float, unit: str) -> str:
    """Return a value with its unit, if that is short."""
    match unit:
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "percent":
            return f"{value:.3g} %"
        case "s":
            return f"{value * 1000:.3g} ms" if 0 < value < 1 else f"{value:.3g} s"
        case "bytes":
            return f"{value / 2**30:.2g}"
        case "mbytes":
            return f"{value:.3g} MiB"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
