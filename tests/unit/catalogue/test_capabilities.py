from __future__ import annotations

from pathlib import Path

import pytest

from atelier.catalogue.capabilities import CAPABILITIES, Supported
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import LoraEntry
from atelier.catalogue.loras import NO_LORAS, Loras
from atelier.core.errors import NotSupported

_ALWAYS = {"text_to_image", "image_to_image", "inpaint"}


def _loras(base: str | None) -> Loras:
    entry = LoraEntry(id="style", description="", licence="MIT", file=Path("/style.safetensors"), base=base)
    return Loras({"style": entry})


def _names(catalogue: Catalogue, model: str, loras: Loras = NO_LORAS) -> set[str]:
    supported = Supported.of(catalogue.model(model), catalogue, loras)
    assert set(supported.by_name) == set(CAPABILITIES)
    return {name for name, can in supported.by_name.items() if can}


@pytest.mark.parametrize("model", ["small-sdxl", "small-sd15"])
def test_models_of_every_family_draw_but_do_not_edit(two_families: Catalogue, model: str) -> None:
    assert _names(two_families.model_copy(update={"controlnets": ()}), model) == _ALWAYS | {"previews"}


@pytest.mark.parametrize("model", ["small-sdxl-edit", "small-sd15-edit"])
def test_models_that_edit_do_nothing_else(edit_catalogue: Catalogue, model: str) -> None:
    assert _names(edit_catalogue, model, _loras(model)) == {"edit", "lora", "previews"}


def test_a_model_with_a_controlnet_of_its_own_can_be_controlled(two_families: Catalogue) -> None:
    of_sd15 = tuple(entry for entry in two_families.controlnets if entry.base == "small-sd15")
    catalogue = two_families.model_copy(update={"controlnets": of_sd15})
    assert "control" in _names(catalogue, "small-sd15")
    assert "control" not in _names(catalogue, "small-sdxl")


@pytest.mark.parametrize(
    ("base", "sdxl", "sd15"), [(None, True, False), ("small-sdxl", True, False), ("small-sd15", False, True)]
)
def test_loras_without_a_base_go_with_sdxl_only(
    two_families: Catalogue, base: str | None, sdxl: bool, sd15: bool
) -> None:
    assert ("lora" in _names(two_families, "small-sdxl", _loras(base))) == sdxl
    assert ("lora" in _names(two_families, "small-sd15", _loras(base))) == sd15


def test_a_model_without_a_projection_has_no_previews(small_catalogue: Catalogue) -> None:
    [model] = small_catalogue.models
    catalogue = small_catalogue.model_copy(update={"models": (model.model_copy(update={"latent_rgb": None}),)})
    assert "previews" not in _names(catalogue, "small-sdxl")


def test_a_refusal_names_the_field_the_model_and_what_it_can_do(two_families: Catalogue) -> None:
    supported = Supported.of(two_families.model("small-sd15"), two_families, NO_LORAS)
    supported.check("control", param="controls[0]")
    with pytest.raises(NotSupported) as caught:
        supported.check("edit", param="prompt")
    assert caught.value.param == "prompt"
    assert str(caught.value) == (
        "prompt: small-sd15 does not support edit; it supports text_to_image, image_to_image, inpaint, control, "
        "previews."
    )
