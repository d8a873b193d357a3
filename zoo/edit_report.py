"""Scores of tiny-edit on edits that it was not trained on, written to zoo/README.md with a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import mean

import numpy as np
import torch
from diffusers import StableDiffusionXLInstructPix2PixPipeline
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from zoo.edits import Edit, edits
from zoo.judge import Verdict, judge
from zoo.report import NUM_INFERENCE_STEPS, write_table
from zoo.scenes import draw
from zoo.tiny_edit import FOLDER
from zoo.training import DEVICE

NUM_EDITS = 100
GUIDANCE_SCALE, IMAGE_GUIDANCE_SCALE = 3.0, 2.0

_SIDE_PX = 128
_SHEET_COLUMNS, _TEXT_PX = 8, 18


@dataclass(frozen=True, slots=True)
class Judged:
    """An edited image, and the judge's verdict on it."""

    edit: Edit
    image: Image.Image
    verdict: Verdict

    @property
    def kept(self) -> float:
        """Mean difference of the pixels that are to stay as they are, 0 … 255."""
        before, after = (np.asarray(draw(scene), np.float32) for scene in (self.edit.before, self.edit.after))
        stays = (before == after).all(-1)
        return float(np.abs(np.asarray(self.image, np.float32) - after)[stays].mean())


def held_out_edits(count: int) -> list[Edit]:
    """Return edits to scenes that were not trained on, chosen with a fixed seed."""
    endless = edits(Random("edit judge"), width=_SIDE_PX, height=_SIDE_PX)
    return list(islice((edit for edit in endless if edit.is_held_out), count))


def judge_edits(pipeline: StableDiffusionXLInstructPix2PixPipeline, chosen: Sequence[Edit]) -> list[Judged]:
    """Edit the drawing of each scene, with its index as the seed, and judge it."""
    judged = []
    for seed, edit in enumerate(tqdm(chosen, desc="edit and judge")):
        [image] = pipeline(
            edit.instruction,
            image=draw(edit.before),
            height=_SIDE_PX,
            width=_SIDE_PX,
            num_inference_steps=NUM_INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            image_guidance_scale=IMAGE_GUIDANCE_SCALE,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images
        judged.append(Judged(edit, image, judge(image, edit.after.description)))
    return judged


def scores(judged: Sequence[Judged]) -> dict[str, str]:
    """Return the shares of edits that are right in some respect, and how much else has changed."""
    things = [thing for one in judged for thing in one.verdict.things]
    return {
        "background": f"{mean(one.verdict.background for one in judged):.1%}",
        "colours of things": f"{mean(thing.colour for thing in things):.1%}",
        "shapes of things": f"{mean(thing.shape for thing in things):.1%}",
        "every attribute": f"{mean(one.verdict.is_right for one in judged):.1%}",
        "mean difference of what is to stay": f"{mean(one.kept for one in judged):.1f} of 255",
    }


def write() -> None:
    """Score the committed model, then write the table `edits` of zoo/README.md and edit_sheet.png."""
    pipeline = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(
        FOLDER, dtype=torch.float32, use_safetensors=True, add_watermarker=False
    ).to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    judged = judge_edits(pipeline, held_out_edits(NUM_EDITS))
    rows = [f"| {name} | {score} |" for name, score in scores(judged).items()]
    write_table("edits", "\n".join(["| measure | score |", "| --- | --- |", *rows]))
    _sheet(judged[: 2 * _SHEET_COLUMNS]).save(Path(__file__).parent / "edit_sheet.png", optimize=True)


def _sheet(judged: Sequence[Judged]) -> Image.Image:
    """Draw images, the instructions below them, and the edited images below these."""
    step, block = _SIDE_PX + 8, 2 * _SIDE_PX + _TEXT_PX + 12
    sheet = Image.new("RGB", (_SHEET_COLUMNS * step - 8, len(judged) // _SHEET_COLUMNS * block), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for index, one in enumerate(judged):
        x, y = index % _SHEET_COLUMNS * step, index // _SHEET_COLUMNS * block
        sheet.paste(draw(one.edit.before), (x, y))
        pen.text(
            (x + 2, y + _SIDE_PX + 2),
            one.edit.instruction,
            fill="black" if one.verdict.is_right else "red",
            font=font,
        )
        sheet.paste(one.image, (x, y + _SIDE_PX + _TEXT_PX))
    return sheet
