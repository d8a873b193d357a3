"""Scores of the zoo's ControlNets on scenes never seen, drawn from captions that tell colours only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from PIL import Image
from tqdm import tqdm

from atelier.catalogue.catalogue import read_catalogue
from atelier.control.annotators import Annotators
from atelier.core.control import Annotation, ControlImage, ControlKind
from atelier.models.loading import Placement
from zoo.captions import colours_only
from zoo.control_judge import depth_f1, edge_f1
from zoo.report import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, held_out_descriptions
from zoo.scenes import Scene, arrange, draw
from zoo.tiny_controlnets import MAPS
from zoo.training import DEVICE, WEIGHTS_FOLDER
from zoo.vae import reconstruct

NUM_SCENES = 64

_BATCH = 8
_SIDE_PX = 128
_JUDGES: dict[ControlKind, Callable[[ControlImage, ControlImage], float]] = {"canny": edge_f1, "depth": depth_f1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlScores:
    """F1 against the map, means over the scenes."""

    with_control: float
    #: The same captions and seeds alone.
    without: float
    #: The scenes themselves after the VAE: nothing drawn through it could score more.
    ceiling: float


def unseen_scenes(count: int) -> list[Scene]:
    """Of descriptions never trained on."""
    random = Random("control judge")
    return [arrange(d, random, width=_SIDE_PX, height=_SIDE_PX) for d in held_out_descriptions(count)]


def control_scores(pipeline: StableDiffusionXLPipeline, kind: ControlKind, scenes: Sequence[Scene]) -> ControlScores:
    controlnet = ControlNetModel.from_pretrained(WEIGHTS_FOLDER / f"tiny-{kind}", dtype=torch.float32).to(DEVICE)
    controlled = StableDiffusionXLControlNetPipeline(
        **pipeline.components, controlnet=controlnet, add_watermarker=False
    )
    controlled.set_progress_bar_config(disable=True)
    maps = [MAPS[kind](scene) for scene in scenes]
    entries = [entry for entry in read_catalogue().annotators if entry.kind == kind]
    annotators = Annotators(entries, Placement(str(DEVICE), "float32"))

    def score(pictures: Sequence[Image.Image]) -> float:
        drawn = [annotators.annotate(Annotation(kind), np.asarray(picture)) for picture in pictures]
        return mean(map(_JUDGES[kind], drawn, maps))

    with_control, without = [], []
    for start in tqdm(range(0, len(scenes), _BATCH), desc=f"judge tiny-{kind}"):
        batch = scenes[start : start + _BATCH]
        settings = {
            "prompt": [colours_only(scene.description) for scene in batch],
            "num_inference_steps": NUM_INFERENCE_STEPS,
            "guidance_scale": GUIDANCE_SCALE,
        }
        images = [Image.fromarray(control_image) for control_image in maps[start : start + _BATCH]]
        with_control += controlled(**settings, image=images, generator=_generators(start, len(batch))).images
        without += pipeline(**settings, generator=_generators(start, len(batch))).images
    return ControlScores(
        with_control=score(with_control),
        without=score(without),
        ceiling=score([reconstruct(pipeline.vae, draw(scene)) for scene in scenes]),
    )


def _generators(first_seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(first_seed + index) for index in range(count)]
