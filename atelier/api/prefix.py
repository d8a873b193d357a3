"""Paths in answers, below the route prefix at which Serve or another application mounts this one."""

from __future__ import annotations

from starlette.requests import HTTPConnection


def with_prefix(request: HTTPConnection, path: str) -> str:
    """Return the path on this server of a path of the application."""
    return f"{request.scope.get('root_path', '').rstrip('/')}{path}"
