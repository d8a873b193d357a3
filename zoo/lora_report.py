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
from zoo.training import WEIGHTS_FOLDER

NUM_CAPTIONS = 24
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
    """How much of each style the images have, as a mean, and how many follow their captions apart from it, 0 … 1."""

    styles: Mapping[Style, float]
    right: float


def judged_descriptions(count: int) -> list[Description]:
    """Return held-out descriptions whose styles can be judged."""
    found = [description for description in held_out_descriptions(6 * count) if can_judge(description)]
    return found[:count]


def load_loras(pipeline: StableDiffusionXLPipeline) -> None:
    """Load all LoRAs of the zoo from their files, each under the name of its style.

    diffusers reads all layouts but peft's, which peft reads.
    """
    for style, recipe in RECIPES.items():
        file = WEIGHTS_FOLDER / recipe.name / f"{recipe.stem}.safetensors"
        if recipe.layout == "peft":
            pipeline.unet.add_adapter(LoraConfig.from_pretrained(str(file.parent)), style)
            weights = {key.removeprefix(PEFT_PREFIX): weight for key, weight in load_file(file).items()}
            set_peft_model_state_dict(pipeline.unet, weights, style)
        else:
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=style)


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
    pipeline.set_adapters(list(weights), list(weights.values()))
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
    return LoraScores(
        {style: mean(style_score(style, image, one, styles) for image, one in pairs) for style in styles},
        mean(judge(without_styles(image, one, styles), one).is_right for image, one in pairs),
    )


def write() -> None:
    """Score the committed LoRAs, then write two tables of zoo/README.md, lora_sheet.png and the LoRAs' previews."""
    pipeline, descriptions = load_pipeline(), judged_descriptions(NUM_CAPTIONS)
    load_loras(pipeline)
    rows = [_row(pipeline, descriptions, style) for style in tqdm(STYLES, desc="draw with LoRAs")]
    _write_table(
        "loras", ["LoRA", *(f"weight {weight:g}" for weight in WEIGHTS), "no trigger", "caption followed"], rows
    )
    rows = []
    for first, second in PAIRS:
        images = draw_with_loras(pipeline, descriptions, {first: 1.0, second: 1.0})
        scores = lora_scores(images, descriptions, (first, second))
        rows.append(
            f"| tiny-{first} and tiny-{second} | {scores.styles[first]:.2f} | {scores.styles[second]:.2f} "
            f"| {100 * scores.right:.0f} % |"
        )
    _write_table("lora pairs", ["both with weight 1", "first style", "second style", "caption followed"], rows)
    _write_sheet_and_previews(pipeline)


def _write_table(name: str, columns: Sequence[str], rows: Sequence[str]) -> None:
    write_table(name, "\n".join([f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", *rows]))


def _row(pipeline: StableDiffusionXLPipeline, descriptions: Sequence[Description], style: Style) -> str:
    recipe = RECIPES[style]
    cells = []
    for weight in WEIGHTS:
        scores = lora_scores(draw_with_loras(pipeline, descriptions, {style: weight}), descriptions, [style])
        cells.append(f"{scores.styles[style]:.2f}")
    bare = ""
    if recipe.trigger is not None:
        images = draw_with_loras(pipeline, descriptions, {style: 1.0}, trigger=False)
        bare = f"{lora_scores(images, descriptions, [style]).styles[style]:.2f}"
    return f"| {' | '.join([recipe.name, *cells, bare])} | {100 * scores.right:.0f} % |"


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
            image.save(WEIGHTS_FOLDER / recipe.name / recipe.preview, lossless=True)
    sheet.save(_SHEET, optimize=True)
