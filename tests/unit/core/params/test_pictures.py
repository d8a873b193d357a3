from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from atelier.core.errors import InvalidParameter
from atelier.core.params import InspectParams, parse


@pytest.mark.parametrize("image", [b"AB\xff", "QUL/", "data:image/png;base64,QUL/", "data:;base64,QUL/"])
def test_an_image_is_bytes_or_base64_or_a_data_url(image: object) -> None:
    assert parse(InspectParams, {"image": image}).image == b"AB\xff"


@pytest.mark.parametrize("image", ["%", "QUI", "QU I=", "QUL_", "ÄÄÄÄ"])
def test_other_text_is_refused_as_no_base64(image: str) -> None:
    with pytest.raises(InvalidParameter, match="image: must be an image in base64") as caught:
        parse(InspectParams, {"image": image})
    assert caught.value.param == "image"


@pytest.mark.parametrize("image", [3, ["QUL/"], {}])
def test_an_image_of_another_type_is_refused(image: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(InspectParams, {"image": image})
    assert caught.value.param == "image"


def test_the_documentation_shows_a_readable_image() -> None:
    field = InspectParams.model_json_schema()["properties"]["image"]
    assert (field["type"], field["contentEncoding"]) == ("string", "base64")
    [example] = field["examples"]
    assert Image.open(io.BytesIO(base64.b64decode(example))).size == (32, 32)
