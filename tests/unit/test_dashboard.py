"""deploy/grafana/atelier.json: Grafana reads it, and its expressions use metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from docs.panels import Panel, concrete, panels, read_dashboard
from tests.promql import check
from tests.series import all_series

_PANELS = list(panels())
_UNITS = {value for value in vars(units).values() if isinstance(value, str)}


def _lost(written: object, read: object, path: str = "") -> Iterator[str]:
    """Yield the places of a JSON value that another one lacks or has otherwise."""
    match written, read:
        case dict(), dict():
            for name, value in written.items():
                yield from _lost(value, read.get(name), f"{path}/{name}")
        case list(), list() if len(written) == len(read):
            for index, value in enumerate(written):
                yield from _lost(value, read[index], f"{path}/{index}")
        case _ if written != read:
            yield path


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    register_default_plugins()
    dashboard = read_dashboard()
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))
    assert list(_lost(dashboard, read)) == []


@pytest.mark.parametrize("panel", _PANELS, ids=lambda panel: panel.title)
def test_expressions_of_a_panel_use_metrics_that_exist(panel: Panel) -> None:
    for query in panel.queries:
        labels = check(concrete(query.expression), all_series())
        assert set(re.findall(r"{{(\w+)}}", query.legend)) == labels


@pytest.mark.parametrize("panel", _PANELS, ids=lambda panel: panel.title)
def test_a_panel_says_what_it_shows_in_which_unit_and_what_to_do(panel: Panel) -> None:
    assert panel.queries
    assert panel.unit in _UNITS or re.fullmatch(r"suffix: \w+/s", panel.unit)
    assert re.fullmatch(r"(If|Above) .+[\w`]\.", panel.description)
    assert not re.search(r"\. [A-Z]", panel.description)


def test_panels_have_titles_of_their_own_and_do_not_overlap() -> None:
    assert len({panel.title for panel in _PANELS}) == len(_PANELS)
    cells = [
        (x, y)
        for panel in _PANELS
        for x in range(panel.x, panel.x + panel.width)
        for y in range(panel.y, panel.y + panel.height)
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_variables_are_read_from_series_that_exist() -> None:
    [source, *variables] = read_dashboard()["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [variable["name"] for variable in variables] == ["application", "deployment"]
    for variable in variables:
        matched = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert matched is not None
        assert matched[2] in check(concrete(matched[1]), all_series())


def test_panels_and_variables_read_the_chosen_data_source() -> None:
    dashboard = read_dashboard()
    shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    readers = [
        *shown,
        *(target for panel in shown for target in panel["targets"]),
        *dashboard["templating"]["list"][1:],
    ]
    assert {tuple(reader["datasource"].items()) for reader in readers} == {
        (("type", "prometheus"), ("uid", "${datasource}"))
    }
