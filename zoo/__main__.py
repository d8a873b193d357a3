"""`python -m zoo [MODEL …]`: train the zoo's models, then score them and update zoo/README.md."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from zoo import (
    control_report,
    depth_estimator,
    edit_report,
    lightning,
    lora_report,
    loras,
    pony,
    preview_decoder,
    report,
    tiny_controlnets,
    tiny_edit,
    tiny_sd15,
    tiny_sdxl,
    upscaler,
)
from zoo.lora_recipes import RECIPES as LORAS

RECIPES: dict[str, Callable[[], None]] = {
    "tiny-sdxl": tiny_sdxl.make,
    "tiny-sd15": tiny_sd15.make,
    "tiny-sdxl-lightning": lightning.make,
    "tiny-pony": pony.make,
    "tiny-edit": tiny_edit.make,
    "tiny-sdxl-preview": preview_decoder.make,
    "tiny-canny": partial(tiny_controlnets.make, "canny"),
    "tiny-depth": partial(tiny_controlnets.make, "depth"),
    "tiny-depth-anything": depth_estimator.make,
    "tiny-x4": upscaler.make,
    **{recipe.name: partial(loras.make, style) for style, recipe in LORAS.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--report-only", action="store_true", help="score the committed weights only")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(RECIPES):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; the models are {', '.join(RECIPES)}")
    if not arguments.report_only:
        for name in arguments.models or RECIPES:
            RECIPES[name]()
    for model in report.BASE_MODELS:
        report.write(model)
    edit_report.write()
    control_report.write()
    lora_report.write()


if __name__ == "__main__":
    main()
