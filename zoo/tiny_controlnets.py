"""The recipes of `tiny-canny` and its like: ControlNets for tiny-sdxl, each with the map its annotator would draw."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from atelier.control.depth import depth_map
from atelier.control.drawing import canny
from atelier.core.control import Annotation, ControlImage, ControlKind
from zoo import tiny_sdxl
from zoo.controlnet import MapOf, train_controlnet
from zoo.scenes import Scene, draw, draw_depth
from zoo.sdxl import TextAndUNet
from zoo.training import DEVICE, WEIGHTS_FOLDER, forget, write_weights


def _canny_of(scene: Scene) -> ControlImage:
    return canny(np.asarray(draw(scene)), Annotation("canny"))


def _depth_of(scene: Scene) -> ControlImage:
    return depth_map(np.asarray(draw_depth(scene)))


#: What the annotator of each kind would draw of a scene; for depth, if it made no mistake.
MAPS: dict[ControlKind, MapOf] = {"canny": _canny_of, "depth": _depth_of}


def make(kind: ControlKind) -> None:
    """Train from scratch (resuming an interrupted run) and write safetensors in fp16."""
    name = f"tiny-{kind}"
    vae, model = _trained()
    controlnet = train_controlnet(name, vae, model, MAPS[kind])
    write_weights(controlnet.to(dtype=torch.float16), WEIGHTS_FOLDER / name)
    forget(name)


def _trained() -> tuple[AutoencoderKL, TextAndUNet]:
    """tiny-sdxl as it is committed, to be trained beside."""
    folder, model = tiny_sdxl.FOLDER, TextAndUNet()
    parts = (
        (model.text_encoder, CLIPTextModel, "text_encoder"),
        (model.text_encoder_2, CLIPTextModelWithProjection, "text_encoder_2"),
        (model.unet, UNet2DConditionModel, "unet"),
    )
    for part, kind, subfolder in parts:
        part.load_state_dict(kind.from_pretrained(folder, subfolder=subfolder, dtype=torch.float32).state_dict())
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32)
    return vae.to(DEVICE).requires_grad_(False), model.to(DEVICE)
