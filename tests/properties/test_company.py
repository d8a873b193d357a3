"""At `exact`, a request gets the same image files alone and in company, whatever images and passes it has."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from atelier.catalogue.catalogue import Catalogue
from atelier.core.params.generate import GenerateParams
from atelier.core.params.parsing import parse
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.pictures import encoded, noise
from tests.records import new_record

_COMPANY = 6
#: No shrinking, because a mix is slow to run: a failing one is reported as it is found.
_settings = settings(
    deadline=None,
    max_examples=10,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


_SIZES = {"64x64": (64, 64), "64x72": (64, 72)}
_HIRES = {"scale": 1.5, "strength": 0.6}


@st.composite
def _request(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a request, with seeds in place of images."""
    starts_from = draw(st.sampled_from(["noise", "hires", "image", "mask"]))
    is_controlled = starts_from != "hires" and draw(st.booleans())
    return {
        "prompt": draw(st.sampled_from(["a red circle", "two blue rings on the left, white background " * 6])),
        "seed": draw(st.integers(0, 3)),
        "n": draw(st.integers(1, 2)),
        "size": draw(st.sampled_from(list(_SIZES))),
        "num_inference_steps": draw(st.integers(2, 4)),
        "guidance_scale": draw(st.sampled_from([1.0, 4.0])),
        "sampler": draw(st.sampled_from(["euler", "euler_a", "dpmpp_2m"])),
        "hires": _HIRES if starts_from == "hires" else None,
        "init_image": draw(st.integers(0, 2)) if starts_from in ("image", "mask") else None,
        "mask_image": 1 if starts_from == "mask" else None,
        "strength": draw(st.sampled_from([0.5, 0.8, 1.0])) if starts_from in ("image", "mask") else None,
        "controls": draw(st.sampled_from(["canny", "depth"])) if is_controlled else None,
        "upscale": {"scale": 2} if draw(st.booleans()) else None,
    }


def _params(fields: dict[str, Any]) -> GenerateParams:
    size, images = _SIZES[fields["size"]], dict[str, object]()
    if fields["init_image"] is not None:
        images["init_image"] = encoded(noise(*size, seed=fields["init_image"]))
    if fields["mask_image"] is not None:
        images["mask_image"] = encoded(noise(8, 8, seed=1).convert("L").resize(size))
    if fields["controls"] is not None:
        control_image = encoded(noise(*size, seed=5))
        images["controls"] = [{"kind": fields["controls"], "image": control_image, "annotate": True}]
    return parse(GenerateParams, {**fields, **images, "reproducibility": "exact"})


@given(company=st.lists(_request(), min_size=_COMPANY, max_size=_COMPANY))
@_settings
def test_exact_requests_get_the_same_files_in_company(
    company: list[dict[str, Any]], small_stages: LocalStages, small_catalogue: Catalogue
) -> None:
    pipeline = Pipeline(small_stages, small_catalogue, PipelineLimits(max_pixel_steps=10**8))

    async def files_of(index: int, fields: dict[str, Any]) -> list[bytes]:
        result = await pipeline.generate(new_record(f"req_{index}"), _params(fields))
        return [picture.data for picture in result.pictures]

    async def in_company() -> list[list[bytes]]:
        return list(await asyncio.gather(*map(files_of, range(_COMPANY), company)))

    together = asyncio.run(in_company())
    for index, (fields, files) in enumerate(zip(company, together, strict=True)):
        assert files == asyncio.run(files_of(index, fields)), fields
