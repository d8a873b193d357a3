"""The check of PromQL finds what Prometheus would only answer with an empty result."""

from __future__ import annotations

import re

import pytest

from tests.promql import check

_KNOWN = {
    "requests_total": frozenset({"application", "code"}),
    "replicas": frozenset({"application", "deployment"}),
    "seconds_bucket": frozenset({"application", "le"}),
}


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ('sum by (code) (rate(requests_total{application="a"}[5m]))', {"code"}),
        ("sum(rate(requests_total[5m])) or vector(0)", set()),
        ("2 * histogram_quantile(0.5, sum by (application, le) (rate(seconds_bucket[5m])))", {"application"}),
        ('label_replace(replicas, "zone", "$1", "deployment", "(.*)")', {"application", "deployment", "zone"}),
        ("requests_total unless requests_total offset 5m", {"application", "code"}),
    ],
)
def test_labels_of_a_result(expression: str, labels: set[str]) -> None:
    assert check(expression, _KNOWN) == labels


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("sum(request_total)", "there is no metric request_total"),
        ('{application="a"}', "there is no metric None"),
        ('requests_total{status="200"}', "requests_total has no label status; it has application, code"),
        ("sum by (deployment) (requests_total)", "has no label deployment"),
        ("sum without (code) (requests_total)", "use `by`"),
        ('label_replace(replicas, "zone", "$1", "node", "(.*)")', "has no label node"),
        ("histogram_quantile(0.5, sum by (application) (rate(seconds_bucket[5m])))", "has no label le"),
        ("sum by (application) (replicas) / sum by (code) (requests_total)", "never match"),
        ("replicas unless requests_total", "never match"),
        ("replicas / on (application) requests_total", "does not know `on`"),
        ("sum(", "unclosed left parenthesis"),
    ],
)
def test_a_mistake_is_named(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(expression, _KNOWN)
