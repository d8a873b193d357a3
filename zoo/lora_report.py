"""Scores of the zoo's LoRAs at several weights and in pairs, in diffusers' own pipeline with peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, set_peft_model_state_dict
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from tqdm import tqdm

from zoo.captions import canonical
from zoo.judge import judge
from zoo.lora_files import PEFT_PREFIX
from zoo.lora_judge import can_judge, style_score, without_styles
from zoo.lora_recipes import RECIPES
from zoo.report import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, held_out_descriptions, load_pipeline, write_table
from zoo.scenes import Description, Thing
from zoo.styles import STYLES, Style

NUM_CAPTIONS = 16
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Styles that are seen side by side in one image.
PAIRS: tuple[tuple[Style, Style], ...] = (("outline", "checkerboard"), ("pastel", "checkerboard"))

_BATCH = 8
_SIDE_PX = 128
_SHEET = Path(__file__).parent / "lora_sheet.png"
_SHOWN = Description(things=(Thing(colour="red", shape="star", size="large"),), background="blue")
_SHOWN_SEED = 1


@dataclass(frozen=True, slots=True)
class LoraScores:
    """Means over images, 0 … 1."""

    #: How much of each style they have.
    styles: Mapping[Style, float]
    #: The shares of backgrounds and of things that are as described, without the styles.
    background: float
    colour: float
    shape: float
    place: float


def judged_descriptions(count: int) -> list[Description]:
    """Return held-out descriptions whose styles can be judged."""
    found = [description for description in held_out_descriptions(6 * count) if can_judge(description)]
    return found[:count]


def load_loras(pipeline: StableDiffusionXLPipeline) -> None:
    """Load all LoRAs of the zoo from their files, each under the name of its style.

    diffusers reads all layouts but peft's, which peft reads.
    """
    for style, recipe in RECIPES.items():
        if recipe.layout == "peft":
            pipeline.unet.add_adapter(LoraConfig.from_pretrained(str(recipe.folder)), style)
            weights = {key.removeprefix(PEFT_PREFIX): weight for key, weight in load_file(recipe.file).items()}
            set_peft_model_state_dict(pipeline.unet, weights, style)
        else:
            pipeline.load_lora_weights(recipe.folder, weight_name=recipe.file.name, adapter_name=style)


def draw_with_loras(
    pipeline: StableDiffusionXLPipeline,
    descriptions: Sequence[Description],
    weights: Mapping[Style, float],
    *,
    trigger: bool = True,
) -> list[Image.Image]:
    """Generate an image from each description's caption, with its index as the seed.

    The caption ends with the trigger words of the LoRAs, unless `trigger` is false.
    """
    # diffusers takes no empty list of LoRAs.
    acting = weights or {STYLES[0]: 0.0}
    pipeline.set_adapters(list(acting), list(acting.values()))
    images = []
    for start in range(0, len(descriptions), _BATCH):
        prompts = [canonical(description) for description in descriptions[start : start + _BATCH]]
        for style in weights if trigger else ():
            prompts = [RECIPES[style].prompt(prompt) for prompt in prompts]
        images += pipeline(
            prompts,
            num_inference_steps=NUM_INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=[torch.Generator("cpu").manual_seed(start + index) for index in range(len(prompts))],
        ).images
    return images


def lora_scores(
    images: Sequence[Image.Image], descriptions: Sequence[Description], styles: Sequence[Style]
) -> LoraScores:
    """Judge images that are meant to have all of the styles."""
    pairs = list(zip(images, descriptions, strict=True))
    verdicts = [judge(without_styles(image, one, styles), one) for image, one in pairs]
    things = [thing for verdict in verdicts for thing in verdict.things]
    return LoraScores(
        styles={style: mean(style_score(style, image, one, styles) for image, one in pairs) for style in styles},
        background=mean(verdict.background for verdict in verdicts),
        colour=mean(thing.colour for thing in things),
        shape=mean(thing.shape for thing in things),
        place=mean(thing.place for thing in things if thing.place is not None),
    )


def write() -> None:
    """Score the committed LoRAs, then write two tables of zoo/README.md, lora_sheet.png and the LoRAs' previews."""
    pipeline, descriptions = load_pipeline(), judged_descriptions(NUM_CAPTIONS)
    load_loras(pipeline)
    columns = ["LoRA", *(f"weight {weight:g}" for weight in WEIGHTS), "weight 1, no trigger words"]
    _write_table("loras", columns, [_weights_row(pipeline, descriptions, style) for style in STYLES])
    combinations: list[tuple[Style, ...]] = [(), *((style,) for style in STYLES), *PAIRS]
    columns = ["LoRAs, with weight 1", "their styles", "background", "colour", "shape", "place"]
    _write_table("lora captions", columns, [_captions_row(pipeline, descriptions, one) for one in combinations])
    _write_sheet_and_previews(pipeline)


def _write_table(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [columns, ["---"] * len(columns), *rows]
    write_table(name, "\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def _weights_row(pipeline: StableDiffusionXLPipeline, descriptions: Sequence[Description], style: Style) -> list[str]:
    settings = [(weight, True) for weight in WEIGHTS]
    if RECIPES[style].trigger is not None:
        settings.append((1.0, False))
    cells = [RECIPES[style].name]
    for weight, trigger in tqdm(settings, desc=f"draw with {RECIPES[style].name}"):
        images = draw_with_loras(pipeline, descriptions, {style: weight}, trigger=trigger)
        cells.append(f"{lora_scores(images, descriptions, [style]).styles[style]:.2f}")
    return cells + [""] * (2 + len(WEIGHTS) - len(cells))


def _captions_row(
    pipeline: StableDiffusionXLPipeline, descriptions: Sequence[Description], styles: tuple[Style, ...]
) -> list[str]:
    images = draw_with_loras(pipeline, descriptions, dict.fromkeys(styles, 1.0))
    scores = lora_scores(images, descriptions, styles)
    shares = (scores.background, scores.colour, scores.shape, scores.place)
    return [
        " and ".join(RECIPES[style].name for style in styles) or "none",
        ", ".join(f"{scores.styles[style]:.2f}" for style in styles),
        *(f"{100 * share:.0f} %" for share in shares),
    ]


def _write_sheet_and_previews(pipeline: StableDiffusionXLPipeline) -> None:
    """Draw a row of images per LoRA and pair, with weights from 0 to 1; the last of a LoRA's is its preview."""
    step, label_px = _SIDE_PX + 6, 18
    combinations: list[tuple[Style, ...]] = [*((style,) for style in STYLES), *PAIRS]
    sheet = Image.new("RGB", (len(WEIGHTS) * step - 6, len(combinations) * (step + label_px)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for row, styles in enumerate(combinations):
        y = row * (step + label_px)
        pen.text((2, y + 2), " and ".join(RECIPES[style].name for style in styles), fill="black", font=font)
        for column, weight in enumerate(WEIGHTS):
            [image] = draw_with_loras(pipeline, [_SHOWN], dict.fromkeys(styles, weight))
            sheet.paste(image, (column * step, y + label_px))
        if len(styles) == 1:
            recipe = RECIPES[styles[0]]
            image.save(recipe.folder / recipe.preview, lossless=True)
    sheet.save(_SHEET, optimize=True)
