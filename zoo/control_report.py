"""Scores of the zoo's ControlNets: images of held-out scenes, from control maps and captions of colours only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from PIL import Image
from tqdm import tqdm

from atelier.catalogue.catalogue import read_catalogue
from atelier.control.annotators import Annotators
from atelier.core.control import Annotation, ControlImage, ControlKind
from atelier.models.loading import Placement
from zoo.captions import colours_only
from zoo.control_judge import depth_f1, edge_f1
from zoo.report import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, held_out_descriptions, load_pipeline, write_table
from zoo.scenes import Scene, arrange, draw
from zoo.tiny_controlnets import MAPS
from zoo.training import DEVICE, WEIGHTS_FOLDER
from zoo.vae import reconstruct

NUM_SCENES = 64

_BATCH = 8
_SIDE_PX = 128
_SHEET_COLUMNS = 6
_JUDGES: dict[ControlKind, Callable[[ControlImage, ControlImage], float]] = {"canny": edge_f1, "depth": depth_f1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlScores:
    """Mean F1 of one ControlNet's images against the control maps of their scenes, 0 … 1."""

    with_control: float
    #: Score of images generated without the ControlNet, from the same captions and seeds.
    without: float
    #: Score of the drawn scenes after encoding and decoding by the VAE, the highest that generated images can reach.
    ceiling: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A scene, its control map, and images generated from one caption and seed with and without the control map."""

    scene: Scene
    control_image: ControlImage
    with_control: Image.Image
    without: Image.Image


def unseen_scenes(count: int) -> list[Scene]:
    """Return scenes of held-out descriptions, arranged with a fixed seed."""
    random = Random("control judge")
    return [arrange(d, random, width=_SIDE_PX, height=_SIDE_PX) for d in held_out_descriptions(count)]


def draw_controlled(pipeline: StableDiffusionXLPipeline, kind: ControlKind, scenes: Sequence[Scene]) -> list[Drawn]:
    """Generate an image of each scene with and without its control map; the seed is the scene's index.

    Captions name only colours, so shapes and places come from the control map. The pipelines are those of diffusers.
    """
    controlnet = ControlNetModel.from_pretrained(WEIGHTS_FOLDER / f"tiny-{kind}", dtype=torch.float32).to(DEVICE)
    controlled = StableDiffusionXLControlNetPipeline(
        **pipeline.components, controlnet=controlnet, add_watermarker=False
    )
    controlled.set_progress_bar_config(disable=True)
    drawn = []
    for start in tqdm(range(0, len(scenes), _BATCH), desc=f"draw with tiny-{kind}"):
        batch = scenes[start : start + _BATCH]
        maps = [MAPS[kind](scene) for scene in batch]
        settings = {
            "prompt": [colours_only(scene.description) for scene in batch],
            "num_inference_steps": NUM_INFERENCE_STEPS,
            "guidance_scale": GUIDANCE_SCALE,
        }
        images = [Image.fromarray(control_image) for control_image in maps]
        after = controlled(**settings, image=images, generator=_generators(start, len(batch))).images
        alone = pipeline(**settings, generator=_generators(start, len(batch))).images
        drawn += [
            Drawn(scene=scene, control_image=control_image, with_control=one, without=other)
            for scene, control_image, one, other in zip(batch, maps, after, alone, strict=True)
        ]
    return drawn


def control_scores(vae: AutoencoderKL, kind: ControlKind, drawn: Sequence[Drawn]) -> ControlScores:
    """Score the images by the control maps that the annotator of this kind draws from them."""
    entries = [entry for entry in read_catalogue().annotators if entry.kind == kind]
    annotators = Annotators(entries, Placement(str(DEVICE), "float32"))

    def score(images: Sequence[Image.Image]) -> float:
        maps = [annotators.annotate(Annotation(kind), np.asarray(image)) for image in images]
        return mean(map(_JUDGES[kind], maps, [one.control_image for one in drawn]))

    return ControlScores(
        with_control=score([one.with_control for one in drawn]),
        without=score([one.without for one in drawn]),
        ceiling=score([reconstruct(vae, draw(one.scene)) for one in drawn]),
    )


def write() -> None:
    """Score the committed ControlNets, then write the table `controls` of zoo/README.md and control_sheet.png."""
    pipeline, scenes = load_pipeline(), unseen_scenes(NUM_SCENES)
    rows, sheet = [], []
    for kind in MAPS:
        drawn = draw_controlled(pipeline, kind, scenes)
        scores = control_scores(pipeline.vae, kind, drawn)
        rows.append(f"| tiny-{kind} | {scores.with_control:.3f} | {scores.without:.3f} | {scores.ceiling:.3f} |")
        sheet += drawn[:_SHEET_COLUMNS]
    head = ["| ControlNet | F1 with it | without | the scenes after the VAE |", "| --- | --- | --- | --- |"]
    write_table("controls", "\n".join(head + rows))
    _sheet(sheet).save(Path(__file__).parent / "control_sheet.png", optimize=True)


def _sheet(drawn: Sequence[Drawn]) -> Image.Image:
    """Draw three rows of images per kind: control maps, images generated with them, images generated without."""
    step, columns = _SIDE_PX + 8, _SHEET_COLUMNS
    sheet = Image.new("RGB", (columns * step - 8, len(drawn) // columns * 3 * step - 8), "white")
    for index, one in enumerate(drawn):
        x, y = index % columns * step, index // columns * 3 * step
        for row, image in enumerate((Image.fromarray(one.control_image), one.with_control, one.without)):
            sheet.paste(image, (x, y + row * step))
    return sheet


def _generators(first_seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(first_seed + index) for index in range(count)]
