"""The recipe of tiny-x4: Real-ESRGAN's compact network with 70 thousand parameters and a scale of 4."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from atelier.models.esrgan import SRVGGNetCompact
from zoo.dataset import random_training_description
from zoo.scenes import arrange, draw
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, train

NUM_STEPS = 4000

_NAME = "tiny-x4"
_SCALE = 4
_LEARNING_RATE = 2e-3
_BATCH = 16
#: Side of the large image of a training pair, in pixels.
_SIDE_PX = 96


def make() -> None:
    """Train tiny-x4 from scratch (resuming an interrupted run) and write safetensors in fp16."""
    torch.manual_seed(0)
    network = SRVGGNetCompact(scale=_SCALE, features=32, num_convolutions=6).to(DEVICE)
    # With a last layer of zeros, the untrained network returns its input enlarged, already right in flat areas.
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
    delete_states(_NAME)


def random_pair(random: Random) -> tuple[Image.Image, Image.Image]:
    """Draw a crop of a random scene; return it with its sides reduced to a quarter, and at full size."""
    side = random.randrange(_SIDE_PX, 4 * _SIDE_PX)
    large = draw(arrange(random_training_description(random), random, width=side, height=side))
    left, top = (random.randrange(side - _SIDE_PX + 1) for _ in range(2))
    large = large.crop((left, top, left + _SIDE_PX, top + _SIDE_PX))
    resampling = random.choice((Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.LANCZOS))
    return large.resize((_SIDE_PX // _SCALE, _SIDE_PX // _SCALE), resampling), large


def _loss(network: SRVGGNetCompact, random: Random) -> torch.Tensor:
    """Return the mean squared error; in absolute error, flat parts that are nearly right would outweigh edges."""
    pairs = [random_pair(random) for _ in range(_BATCH)]
    small, large = (_batch([pair[index] for pair in pairs]) for index in range(2))
    enlarged: torch.Tensor = network(small)
    return (enlarged.float() - large).square().mean()


def _batch(images: list[Image.Image]) -> torch.Tensor:
    """Return images as a tensor [images, 3, height, width], 0 … 1."""
    pixels = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(DEVICE) / 255
