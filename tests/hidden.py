"""A process in which `atelier` cannot be imported, as if it were not installed."""

from __future__ import annotations

#: Source that hides our packages from the imports that follow it, for `python -c` or for a `sitecustomize.py`.
HIDE_ATELIER = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("atelier", "deployments", "graph"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
