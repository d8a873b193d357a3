"""The databases that tests of jobs run on: SQLite everywhere, and Postgres where its programs are found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from tests.postgres import Postgres, find_programs

#: Makes an empty database and returns its URL.
NewUrl = Callable[[], str]

_NEEDS_POSTGRES = pytest.mark.skipif(find_programs() is None, reason="initdb is not installed")
#: Parameters of a test that runs on both.
DATABASES = ["sqlite", pytest.param("postgres", marks=_NEEDS_POSTGRES)]

_names = (f"test_{number}" for number in count())


def new_url(kind: str, tmp_path_factory: pytest.TempPathFactory, server: Callable[[], Postgres]) -> str:
    """Make an empty database of this kind and return its URL."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('jobs') / 'jobs.db'}"
    return server().new_database(next(_names))
