"""The small model, for all unit tests."""

from __future__ import annotations

from tests.small_models import small_catalogue

__all__ = ["small_catalogue"]
