"""deploy/prometheus: the config and the alert rules, which fire when they should and use metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.panels import panels
from tests.promql import check
from tests.series import all_series

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "deploy" / "prometheus"
_RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((_FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
_NAMES = [rule["alert"] for rule in _RULES]
_PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    _PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def _promtool(*arguments: str) -> str:
    assert _PROMTOOL is not None
    ended = subprocess.run([_PROMTOOL, *arguments], cwd=_FOLDER, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@needs_promtool
def test_prometheus_accepts_its_config_and_the_rules() -> None:
    assert f"{len(_RULES)} rules found" in _promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_rules_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in _promtool("test", "rules", "alerts_test.yml")


def test_every_rule_is_tested_to_fire_and_to_stay_silent() -> None:
    cases = [
        case
        for test in yaml.safe_load((_FOLDER / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(_NAMES)
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(_NAMES)


@pytest.mark.parametrize("rule", _RULES, ids=_NAMES)
def test_an_alert_uses_metrics_that_exist(rule: dict[str, Any]) -> None:
    labels = check(rule["expr"], all_series())
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels


@pytest.mark.parametrize("rule", _RULES, ids=_NAMES)
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_alert_is_explained_on_the_page() -> None:
    page = (_ROOT / "docs" / "watching.md").read_text()
    assert re.findall(r"^\| `(Atelier\w+)` \|", page, flags=re.MULTILINE) == _NAMES


def test_panels_that_runbooks_name_exist() -> None:
    titles = {panel.title for panel in panels()}
    named = [name for rule in _RULES for name in re.findall(r'"([^"]+)"', rule["annotations"]["runbook"])]
    assert named
    assert set(named) <= titles
