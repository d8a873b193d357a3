from __future__ import annotations

from pathlib import Path

import pytest

from atelier.catalogue.selection import Selection
from atelier.core.errors import ModelNotFound


def test_a_selection_reads_its_models_with_the_environment(tmp_path: Path) -> None:
    selection = Selection(models=("stabilityai/stable-diffusion-xl-base-1.0",), annotators=(), upscalers=())
    catalogue = selection.read({"ATELIER_MODELS_DIR": str(tmp_path)})
    [model] = catalogue.models
    assert (model.files.storage.models_dir, model.files.storage.require_weights) == (tmp_path, True)
    assert catalogue.upscalers == ()


def test_weights_are_required_unless_a_selection_says_otherwise() -> None:
    [model] = Selection(require_weights=False).read({}).models
    assert not model.files.storage.require_weights


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(ModelNotFound, match="Unknown upscaler 'x9'"):
        Selection(upscalers=("x9",)).read({})
