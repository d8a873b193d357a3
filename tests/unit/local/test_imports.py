"""What the stages import: diffusers and transformers take seconds in every replica."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("module", ["images", "texts"])
def test_a_stage_needs_neither_diffusers_nor_transformers_until_a_model_is_loaded(module: str) -> None:
    code = f"import sys, atelier.local.{module}; print({{'diffusers', 'transformers'}} & sys.modules.keys())"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert imported == "set()\n"
