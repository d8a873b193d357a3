"""The panels of the Grafana dashboard in deploy/grafana, and their queries as Prometheus reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana" / "atelier.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A PromQL expression, and the legend of its series with labels as `{{label}}`."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel that shows the series of its queries."""

    title: str
    kind: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    #: Left edge and width in 24ths of the dashboard; top edge and height in Grafana's rows of 30 px.
    x: int
    y: int
    width: int
    height: int
    #: Text for a value, if the panel shows states.
    states: dict[float, str]
    #: Value above which the panel warns.
    threshold: float | None
    #: Largest value of the axis.
    maximum: float | None
    is_stacked: bool


def read_dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return dashboard


def panels() -> Iterator[Panel]:
    """Yield the dashboard's panels, without its rows."""
    for panel in read_dashboard()["panels"]:
        if panel["type"] != "row":
            yield _panel(panel)


def concrete(expression: str, *, interval: str = "1m") -> str:
    """Replace Grafana's variables: all applications and deployments, and one interval of rates."""
    for variable, value in (("$application", ".*"), ("$deployment", ".*"), ("$__rate_interval", interval)):
        expression = expression.replace(variable, value)
    return expression


def _panel(panel: dict[str, Any]) -> Panel:
    defaults, grid = panel["fieldConfig"]["defaults"], panel["gridPos"]
    return Panel(
        title=panel["title"],
        kind=panel["type"],
        unit=defaults["unit"],
        description=panel["description"],
        queries=tuple(Query(expression=target["expr"], legend=target["legendFormat"]) for target in panel["targets"]),
        x=grid["x"],
        y=grid["y"],
        width=grid["w"],
        height=grid["h"],
        states={
            float(value): option["text"]
            for mapping in defaults.get("mappings", [])
            for value, option in mapping["options"].items()
        },
        threshold=next((step["value"] for step in defaults["thresholds"]["steps"] if step["value"]), None),
        maximum=defaults.get("max"),
        is_stacked="stacking" in defaults["custom"],
    )
