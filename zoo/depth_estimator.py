"""The recipe of tiny-depth-anything: Depth Anything (Yang et al. 2024) with half a million parameters."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from zoo.dataset import random_training_description
from zoo.scenes import arrange, draw, draw_depth
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, train, write_weights
from zoo.vae import to_tensor

NUM_STEPS = 3000

_NAME = "tiny-depth-anything"
_LEARNING_RATE = 1e-3
_BATCH = 16
_PATCH_PX = 8
_SIDE_PX = 128
#: (width, height) of training images in pixels: multiples of the patch side, as in the image processor's output.
_SIZES = ((128, 128), (128, 128), (96, 128), (128, 96), (128, 72), (72, 128))


def make() -> None:
    """Train tiny-depth-anything from scratch (resuming an interrupted run) and write safetensors in fp16."""
    torch.manual_seed(0)
    model = _new_model().to(DEVICE)
    train(
        _NAME,
        model,
        lambda step: _loss(model, Random(f"{_NAME} {step}")),
        num_steps=NUM_STEPS,
        learning_rate=_LEARNING_RATE,
    )
    write_weights(model.half(), WEIGHTS_FOLDER / _NAME)
    _new_processor().save_pretrained(WEIGHTS_FOLDER / _NAME)
    delete_states(_NAME)


def _new_model() -> DepthAnythingForDepthEstimation:
    backbone = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=_SIDE_PX,
        patch_size=_PATCH_PX,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=_PATCH_PX,
        reassemble_hidden_size=64,
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
        head_hidden_size=16,
    )
    model = DepthAnythingForDepthEstimation(config)
    # Initial weights of transformers are so small that the model learned next to nothing in 600 steps. With torch's
    # default initialisation it learns within 200.
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            module.reset_parameters()
    # Training leaves out the last ReLU: most pixels are background, whose target is zero, so it would soon be dead.
    model.head.activation2 = torch.nn.Identity()
    return model


def _new_processor() -> DPTImageProcessorPil:
    side = {"height": _SIDE_PX, "width": _SIDE_PX}
    half = [0.5, 0.5, 0.5]
    return DPTImageProcessorPil(
        size=side, keep_aspect_ratio=True, ensure_multiple_of=_PATCH_PX, image_mean=half, image_std=half
    )


def _loss(model: DepthAnythingForDepthEstimation, random: Random) -> torch.Tensor:
    """Compute the mean absolute error of the inverse depth, 0 … 1, over a batch of random scenes."""
    width, height = random.choice(_SIZES)
    scenes = [arrange(random_training_description(random), random, width=width, height=height) for _ in range(_BATCH)]
    images = torch.cat([to_tensor(draw(scene)) for scene in scenes]).to(DEVICE)
    depths = torch.from_numpy(np.stack([np.asarray(draw_depth(scene)) for scene in scenes])).to(DEVICE) / 255
    estimated: torch.Tensor = model(images).predicted_depth
    return (estimated.float() - depths).abs().mean()
