"""Scores of the base models on held-out captions and unseen images, written to zoo/README.md with contact sheets."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from zoo import lightning, pony, tiny_sd15, tiny_sdxl
from zoo.captions import canonical
from zoo.judge import ThingVerdict, Verdict, judge
from zoo.scenes import RGB, Description, Palette, random_description
from zoo.training import DEVICE
from zoo.vae import reconstruction_psnr_db

NUM_CAPTIONS = 200
NUM_INFERENCE_STEPS, GUIDANCE_SCALE = 20, 5.0

_README = Path(__file__).parent / "README.md"
_BATCH = 8
_SHEET_COLUMNS, _SHEET_ROWS = 6, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A base model, and how its images are drawn and judged."""

    folder: Path
    #: Name of the table in zoo/README.md, and of the contact sheet.
    table: str
    sheet: str
    palette: Palette
    num_inference_steps: int = NUM_INFERENCE_STEPS
    guidance_scale: float = GUIDANCE_SCALE
    negative_prompt: str | None = None
    has_own_vae: bool = True


TINY_SDXL = Scored(folder=tiny_sdxl.FOLDER, table="scores", sheet="contact_sheet.png", palette=RGB)
TINY_SD15 = Scored(
    folder=tiny_sd15.FOLDER, table="scores of tiny-sd15", sheet="sd15_sheet.png", palette=RGB, has_own_vae=False
)
TINY_LIGHTNING = Scored(
    folder=lightning.FOLDER,
    table="lightning",
    sheet="lightning_sheet.png",
    num_inference_steps=lightning.NUM_INFERENCE_STEPS,
    guidance_scale=0,
    palette=RGB,
    has_own_vae=False,
)
TINY_PONY = Scored(
    folder=pony.FOLDER,
    table="pony",
    sheet="pony_sheet.png",
    negative_prompt=pony.NEGATIVE_PROMPT,
    palette=pony.PALETTE,
)
BASE_MODELS = (TINY_SDXL, TINY_SD15, TINY_LIGHTNING, TINY_PONY)


@dataclass(frozen=True, slots=True)
class Judged:
    """A generated image, its description and the judge's verdict."""

    description: Description
    image: Image.Image
    verdict: Verdict


def held_out_descriptions(count: int) -> list[Description]:
    """Return distinct held-out descriptions, alternately of one and two objects, chosen with a fixed seed."""
    random = Random("judge")
    found: list[Description] = []
    while len(found) < count:
        description = random_description(random, num_things=1 + len(found) % 2)
        if description.is_held_out and description not in found:
            found.append(description)
    return found


def load_pipeline(model: Scored = TINY_SDXL) -> StableDiffusionXLPipeline | StableDiffusionPipeline:
    """Load a committed model into its pipeline of diffusers, in float32."""
    pipeline = DiffusionPipeline.from_pretrained(model.folder, dtype=torch.float32, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(DEVICE)


def judge_captions(
    pipeline: StableDiffusionXLPipeline | StableDiffusionPipeline,
    descriptions: Sequence[Description],
    model: Scored = TINY_SDXL,
) -> list[Judged]:
    """Generate an image from each description's canonical caption, with its index as the seed, and judge it."""
    judged = []
    for start in tqdm(range(0, len(descriptions), _BATCH), desc="draw and judge"):
        batch = descriptions[start : start + _BATCH]
        images = pipeline(
            [canonical(description) for description in batch],
            negative_prompt=None if model.negative_prompt is None else [model.negative_prompt] * len(batch),
            num_inference_steps=model.num_inference_steps,
            guidance_scale=model.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(start + index) for index in range(len(batch))],
        ).images
        judged += [Judged(d, p, judge(p, d, model.palette)) for d, p in zip(batch, images, strict=True)]
    return judged


def scores(judged: Sequence[Judged]) -> dict[str, float]:
    """Return the fractions of judged images whose background or attribute matches the description, 0 … 1."""
    singles = [one for one in judged if len(one.description.things) == 1]
    alone = [one.verdict.things[0] for one in singles]
    placed: list[ThingVerdict] = [thing for thing in alone if thing.place is not None]
    return {
        "background": _share(one.verdict.background for one in judged),
        "one object: colour": _share(thing.colour for thing in alone),
        "one object: shape": _share(thing.shape for thing in alone),
        "one object: place": _share(bool(thing.place) for thing in placed),
        "two objects: every attribute": _share(
            one.verdict.is_right for one in judged if len(one.description.things) == 2
        ),
    }


def _share(outcomes: Iterable[bool]) -> float:
    known = list(outcomes)
    return sum(known) / len(known)


def write(model: Scored) -> None:
    """Score a committed model, then write its table of zoo/README.md and its contact sheet."""
    pipeline = load_pipeline(model)
    judged = judge_captions(pipeline, held_out_descriptions(NUM_CAPTIONS), model)
    rows = [f"| {name} | {100 * share:.1f} % |" for name, share in scores(judged).items()]
    if model.has_own_vae:
        psnr_db = reconstruction_psnr_db(pipeline.vae, images_per_size=2, seed=0, palette=model.palette)
        rows += [
            f"| VAE, mean over {len(psnr_db)} images of all sizes | {sum(psnr_db) / len(psnr_db):.1f} dB |",
            f"| VAE, worst | {min(psnr_db):.1f} dB |",
        ]
    write_table(model.table, "\n".join(["| measure | score |", "| --- | --- |", *rows]))
    _contact_sheet(judged[: _SHEET_COLUMNS * _SHEET_ROWS]).save(_README.parent / model.sheet, optimize=True)


def write_table(name: str, table: str) -> None:
    """Print the table, and write it between the markers `<!-- name -->` and `<!-- /name -->` of zoo/README.md."""
    print(table)
    before, _, rest = _README.read_text().partition(f"<!-- {name} -->")
    after = rest.partition(f"<!-- /{name} -->")[2]
    _README.write_text(f"{before}<!-- {name} -->\n{table}\n<!-- /{name} -->{after}")


def _contact_sheet(judged: Sequence[Judged]) -> Image.Image:
    """Draw a grid of images above their captions; captions of images with a mistake are red."""
    cell_width, cell_height = 176, 186
    sheet = Image.new("RGB", (_SHEET_COLUMNS * cell_width, _SHEET_ROWS * cell_height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for index, one in enumerate(judged):
        x, y = index % _SHEET_COLUMNS * cell_width + 24, index // _SHEET_COLUMNS * cell_height + 4
        sheet.paste(one.image, (x, y))
        colour = "black" if one.verdict.is_right else "red"
        for line, text in enumerate(textwrap.wrap(canonical(one.description), 32)):
            pen.text((x - 20, y + 130 + 13 * line), text, fill=colour, font=font)
    return sheet
