"""The recipes of tiny-canny and tiny-depth: ControlNets for tiny-sdxl, trained on Canny edges and on true depth."""

from __future__ import annotations

import numpy as np
import torch

from atelier.control.depth import depth_map
from atelier.control.drawing import canny
from atelier.core.control import Annotation, ControlImage, ControlKind
from zoo import tiny_sdxl
from zoo.controlnet import DrawMap, train_controlnet
from zoo.scenes import Scene, draw, draw_depth
from zoo.training import WEIGHTS_FOLDER, delete_states, write_weights


def _canny_map(scene: Scene) -> ControlImage:
    return canny(np.asarray(draw(scene)), Annotation("canny"))


def _depth_map(scene: Scene) -> ControlImage:
    return depth_map(np.asarray(draw_depth(scene)))


#: Functions from a scene to its control map, by kind. The depth map shows the true depth, without an estimator.
MAPS: dict[ControlKind, DrawMap] = {"canny": _canny_map, "depth": _depth_map}


def make(kind: ControlKind) -> None:
    """Train the ControlNet of a kind from scratch (resuming an interrupted run) and write safetensors in fp16."""
    name = f"tiny-{kind}"
    vae, model = tiny_sdxl.load()
    controlnet = train_controlnet(name, vae, model, MAPS[kind])
    write_weights(controlnet.to(dtype=torch.float16), WEIGHTS_FOLDER / name)
    delete_states(name)
