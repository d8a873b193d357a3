"""Replicas import only the libraries of their own stage."""

from __future__ import annotations

import subprocess
import sys


def test_stages_of_images_need_neither_diffusers_nor_transformers_until_a_model_is_loaded() -> None:
    script = "import sys, atelier.local.images; print({'diffusers', 'transformers', 'torch'} & sys.modules.keys())"
    imported = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert imported.stdout.strip() == "{'torch'}"
