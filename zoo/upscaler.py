"""The zoo's upscaler: Real-ESRGAN's compact network at 70 thousand parameters, four times larger."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from atelier.models.esrgan import SRVGGNetCompact
from zoo.dataset import random_training_description
from zoo.scenes import arrange, draw
from zoo.training import DEVICE, WEIGHTS_FOLDER, forget, train

NUM_STEPS = 4000

_NAME = "tiny-x4"
_SCALE = 4
_LEARNING_RATE = 2e-3
_BATCH = 16
#: Of the large picture.
_SIDE_PX = 96


def make() -> None:
    """Train from scratch (resuming an interrupted run) and write safetensors in fp16."""
    torch.manual_seed(0)
    network = SRVGGNetCompact(scale=_SCALE, features=32, num_convolutions=6).to(DEVICE)
    # From the enlarged picture itself: nothing is to be unlearned where it is flat, which it is nearly everywhere.
    for parameter in network.body[-1].parameters():
        torch.nn.init.zeros_(parameter)
    train(
        _NAME,
        network,
        lambda step: _loss(network, Random(f"{_NAME} {step}")),
        num_steps=NUM_STEPS,
        learning_rate=_LEARNING_RATE,
    )
    weights = {key: weight.half().contiguous() for key, weight in network.state_dict().items()}
    folder = WEIGHTS_FOLDER / _NAME
    folder.mkdir(exist_ok=True)
    file = folder / "model.safetensors"
    save_file(weights, file)
    file.chmod(0o644)
    forget(_NAME)


def random_pair(random: Random) -> tuple[Image.Image, Image.Image]:
    """A picture four times smaller, and the picture: part of a scene of random size."""
    side = random.randrange(_SIDE_PX, 4 * _SIDE_PX)
    large = draw(arrange(random_training_description(random), random, width=side, height=side))
    left, top = (random.randrange(side - _SIDE_PX + 1) for _ in range(2))
    large = large.crop((left, top, left + _SIDE_PX, top + _SIDE_PX))
    resampling = random.choice((Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.LANCZOS))
    return large.resize((_SIDE_PX // _SCALE, _SIDE_PX // _SCALE), resampling), large


def _loss(network: SRVGGNetCompact, random: Random) -> torch.Tensor:
    """Mean squared error: with the absolute one the flat parts, all but right, outweigh the edges."""
    pairs = [random_pair(random) for _ in range(_BATCH)]
    small, large = (_batch([pair[index] for pair in pairs]) for index in range(2))
    enlarged: torch.Tensor = network(small)
    return (enlarged.float() - large).square().mean()


def _batch(pictures: list[Image.Image]) -> torch.Tensor:
    """[pictures, 3, h, w] in 0 … 1"""
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(DEVICE) / 255
