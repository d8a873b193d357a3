"""What schemathesis' cases cannot say in a form."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import Case, HookContext


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:  # noqa: ARG001 schemathesis calls it so
    """An empty list or object in a form is sent as no field at all, which is no longer what the case is about."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return True
    return all(value or not isinstance(value, (list, dict)) for value in case.body.values())
