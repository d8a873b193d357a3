from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.core.errors import InvalidParameter, TooMuchWork
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, parse
from atelier.pipeline.inputs import Inputs, InputSizes, read_inputs, read_sizes
from tests.pictures import encoded, noise

_SIZE = Size(width=48, height=32)


def _params(**fields: Any) -> GenerateParams:
    files = {name: encoded(value) if isinstance(value, Image.Image) else value for name, value in fields.items()}
    return parse(GenerateParams, {"prompt": "x", **files})


def _controls(*pictures: Image.Image) -> list[dict[str, object]]:
    return [{"kind": "canny", "image": encoded(picture)} for picture in pictures]


def _right_half(mode: str) -> Image.Image:
    """A mask that selects the right half: by transparency in mode RGBA, by white in other modes."""
    is_alpha = mode == "RGBA"
    mask = Image.new(mode, (48, 32), "black")
    mask.paste((0, 0, 0, 0) if is_alpha else "white", (24, 0, 48, 32))
    return mask


def _is_right_half(mask: Any) -> bool:
    return bool((mask[:, :24] == 0).all() and (mask[:, 24:] == 255).all())


def test_a_request_without_images_has_no_sizes() -> None:
    assert read_sizes(_params()) == InputSizes()
    assert read_sizes(_params()).first is None
    assert read_inputs(_params(), _SIZE) == Inputs()


def test_sizes_are_those_of_the_upright_images() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    controls = _controls(noise(16, 24), noise(40, 8))
    sizes = read_sizes(_params(init_image=encoded(noise(48, 32), exif=exif), controls=controls))
    assert sizes.init_image == Size(width=32, height=48)
    assert sizes.control_images == (Size(width=16, height=24), Size(width=40, height=8))


@pytest.mark.parametrize("overlay", ["mask_image", "markup_image"])
def test_images_of_a_request_are_bounded_together(overlay: str) -> None:
    """Two of the largest images are read, and not a pixel more."""
    large = encoded(Image.new("1", (4096, 4096)))
    fields: dict[str, Any] = {"init_image": large, overlay: large}
    assert read_sizes(_params(**fields)).init_image == Size(width=4096, height=4096)
    with pytest.raises(TooMuchWork, match="33554433 pixels together; at most 33554432 are read"):
        read_sizes(_params(**fields, controls=_controls(noise(1, 1))))


def test_the_init_image_comes_before_the_controls() -> None:
    first, second = Size(width=8, height=8), Size(width=16, height=8)
    assert InputSizes(init_image=first, control_images=(second,)).first == first
    assert InputSizes(control_images=(second, first)).first == second


@pytest.mark.parametrize(
    ("name", "value"), [("mask_image", noise(48, 32)), ("markup_image", noise(48, 32)), ("strength", 0.5)]
)
def test_what_belongs_to_an_init_image_needs_one(name: str, value: object) -> None:
    with pytest.raises(InvalidParameter, match=f"{name} needs an init_image") as caught:
        read_sizes(_params(**{name: value}))
    assert caught.value.param == name


def test_a_markup_goes_without_a_mask() -> None:
    transparent = noise(48, 32, channels=4)
    with pytest.raises(InvalidParameter, match="markup_image goes without mask_image") as caught:
        read_sizes(_params(init_image=noise(48, 32), mask_image=noise(48, 32), markup_image=transparent))
    assert caught.value.param == "markup_image"


@pytest.mark.parametrize("name", ["mask_image", "markup_image"])
@pytest.mark.parametrize(("width", "height"), [(32, 48), (48, 31), (47, 32)])
def test_a_mask_is_as_large_as_the_init_image(name: str, width: int, height: int) -> None:
    with pytest.raises(InvalidParameter, match=f"{name}: must be as large as init_image, 48x32") as caught:
        read_sizes(_params(**{"init_image": noise(48, 32), name: noise(width, height)}))
    assert caught.value.param == name
    assert str(caught.value).endswith(f"got {width}x{height}.")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"init_image": b"x"}, "init_image"),
        ({"init_image": noise(8, 8), "mask_image": b"x"}, "mask_image"),
        ({"init_image": noise(8, 8), "markup_image": b"x"}, "markup_image"),
        ({"controls": [*_controls(noise(8, 8)), {"kind": "canny", "image": b"x"}]}, "controls[1].image"),
    ],
)
def test_a_file_that_is_not_an_image_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_sizes(_params(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize("param", ["init_image", "mask_image", "controls[0].image"])
def test_an_image_that_breaks_off_is_refused_by_name(param: str) -> None:
    broken, whole = encoded(noise(48, 32))[:2000], noise(48, 32)
    fields: dict[str, dict[str, object]] = {
        "init_image": {"init_image": broken},
        "mask_image": {"init_image": whole, "mask_image": broken},
        "controls[0].image": {"controls": [{"kind": "canny", "image": broken}]},
    }
    params = _params(**fields[param])
    assert read_sizes(params).first == Size(width=48, height=32)
    with pytest.raises(InvalidParameter) as caught:
        read_inputs(params, _SIZE)
    assert caught.value.param == param


def test_an_opaque_init_image_has_no_mask() -> None:
    picture = noise(48, 32)
    inputs = read_inputs(_params(init_image=picture), _SIZE)
    assert np.array_equal(inputs.init_image, np.asarray(picture))  # type: ignore[arg-type]
    assert inputs.mask is None
    assert inputs.control_images == ()


def test_a_transparent_init_image_is_its_own_mask() -> None:
    picture = noise(48, 32).convert("RGBA")
    picture.putalpha(_right_half("RGBA").getchannel("A"))
    inputs = read_inputs(_params(init_image=picture), _SIZE)
    assert _is_right_half(inputs.mask)
    assert inputs.init_image is not None
    assert (inputs.init_image[:, 24:] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_a_mask_says_where_to_paint(mode: str) -> None:
    inputs = read_inputs(_params(init_image=noise(48, 32), mask_image=_right_half(mode)), _SIZE)
    assert _is_right_half(inputs.mask)


def test_a_mask_that_was_sent_comes_before_the_images_own() -> None:
    picture = noise(48, 32).convert("RGBA")
    picture.putalpha(0)
    inputs = read_inputs(_params(init_image=picture, mask_image=_right_half("L")), _SIZE)
    assert _is_right_half(inputs.mask)


def test_a_markup_is_laid_over_the_init_image() -> None:
    markup = Image.new("RGBA", (48, 32))
    markup.paste("red", (8, 8, 16, 16))
    inputs = read_inputs(_params(init_image=Image.new("RGB", (48, 32), "blue"), markup_image=markup), _SIZE)
    assert inputs.init_image is not None
    assert (inputs.init_image[8:16, 8:16] == (255, 0, 0)).all()
    assert (inputs.init_image[:8] == (0, 0, 255)).all()
    assert inputs.mask is None


def test_a_marked_up_image_stays_transparent_where_nothing_is_drawn() -> None:
    markup = Image.new("RGBA", (48, 32))
    markup.paste("red", (0, 0, 24, 32))
    inputs = read_inputs(_params(init_image=Image.new("RGBA", (48, 32), (0, 0, 0, 0)), markup_image=markup), _SIZE)
    assert _is_right_half(inputs.mask)


def test_an_opaque_markup_is_refused() -> None:
    params = _params(init_image=noise(48, 32), markup_image=noise(48, 32))
    with pytest.raises(InvalidParameter, match="markup_image: must be transparent where nothing is drawn") as caught:
        read_inputs(params, _SIZE)
    assert caught.value.param == "markup_image"


def test_all_images_are_brought_to_the_size_that_is_drawn() -> None:
    params = _params(
        init_image=noise(96, 40), mask_image=_right_half("L").resize((96, 40)), controls=_controls(noise(10, 20))
    )
    inputs = read_inputs(params, _SIZE)
    assert inputs.init_image is not None
    assert inputs.mask is not None
    assert inputs.init_image.shape == (32, 48, 3)
    assert inputs.mask.shape == (32, 48)
    assert [pixels.shape for pixels in inputs.control_images] == [(32, 48, 3)]


def test_control_images_are_in_the_order_of_the_controls() -> None:
    pictures = [noise(48, 32, seed=seed) for seed in range(3)]
    inputs = read_inputs(_params(controls=_controls(*pictures)), _SIZE)
    for pixels, picture in zip(inputs.control_images, pictures, strict=True):
        assert np.array_equal(pixels, np.asarray(picture))
