"""A check of PromQL expressions: every metric is known, and so is every label that is asked of it."""

from __future__ import annotations

from collections.abc import Mapping

import promql_parser as promql

Labels = frozenset[str]

_SCALAR: Labels = frozenset()
_SETS = ("and", "or", "unless")


def check(expression: str, known: Mapping[str, Labels]) -> Labels:
    """Return the labels that the expression's series have.

    `known` are the labels by metric. Raises ValueError if the expression is not PromQL, or uses an unknown metric, an
    unknown label, or operands whose labels never match.
    """
    return _labels(promql.parse(expression), known)


def _labels(expression: promql.Expr, known: Mapping[str, Labels]) -> Labels:
    match expression:
        case promql.NumberLiteral() | promql.StringLiteral():
            return _SCALAR
        case promql.VectorSelector():
            return _of_selector(expression, known)
        case promql.MatrixSelector():
            return _of_selector(expression.vector_selector, known)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(expression.expr, known)
        case promql.AggregateExpr():
            return _of_aggregation(expression, known)
        case promql.Call():
            return _of_call(expression, known)
        case promql.BinaryExpr():
            return _of_operator(expression, known)
    raise ValueError(f"{expression} is not an expression that this check knows")


def _of_selector(selector: promql.VectorSelector, known: Mapping[str, Labels]) -> Labels:
    if selector.name is None or selector.name not in known:
        raise ValueError(f"there is no metric {selector.name}")
    labels = known[selector.name]
    _require([matcher.name for matcher in selector.matchers.matchers], labels, selector.name)
    return labels


def _of_aggregation(aggregation: promql.AggregateExpr, known: Mapping[str, Labels]) -> Labels:
    labels, modifier = _labels(aggregation.expr, known), aggregation.modifier
    if modifier is None:
        return frozenset()
    if modifier.type != promql.AggModifierType.By:
        raise ValueError("`without` keeps labels that nobody has looked at; use `by`")
    _require(modifier.labels, labels, str(aggregation.expr))
    return frozenset(modifier.labels)


def _of_call(call: promql.Call, known: Mapping[str, Labels]) -> Labels:
    labels = frozenset[str]().union(*(_labels(argument, known) for argument in call.args))
    match call.func.name:
        case "label_replace":
            target, source = (call.args[index] for index in (1, 3))
            assert isinstance(target, promql.StringLiteral)
            assert isinstance(source, promql.StringLiteral)
            _require([source.val], labels, str(call.args[0]))
            return labels | {target.val}
        case "histogram_quantile":
            _require(["le"], labels, str(call.args[1]))
            return labels - {"le"}
    return labels


def _of_operator(operation: promql.BinaryExpr, known: Mapping[str, Labels]) -> Labels:
    left, right = _labels(operation.lhs, known), _labels(operation.rhs, known)
    if operation.modifier is not None and operation.modifier.matching is not None:
        raise ValueError("this check does not know `on` and `ignoring`; aggregate both operands by the same labels")
    is_scalar = any(isinstance(operand, promql.NumberLiteral) for operand in (operation.lhs, operation.rhs))
    if not is_scalar and str(operation.op) != "or" and left != right:
        raise ValueError(f"{sorted(left)} and {sorted(right)} never match in {operation}")
    return left | right


def _require(wanted: list[str], labels: Labels, of: str) -> None:
    if missing := set(wanted) - labels:
        raise ValueError(f"{of} has no label {', '.join(sorted(missing))}; it has {', '.join(sorted(labels))}")
