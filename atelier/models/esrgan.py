"""The two networks of Real-ESRGAN, with the module names of its published files.

`network_from` recognises a file's network by its keys. RRDBNet: Wang et al. 2018, "ESRGAN", §3.1. SRVGGNetCompact:
Wang et al. 2021, "Real-ESRGAN", and its repository.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn import Conv2d, LeakyReLU, Module, ModuleList, PReLU, Sequential
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

#: Scale of the residual branches of RRDBNet.
_RESIDUAL_SCALE = 0.2


class Network(Module):
    """An upscaling network: maps RGB in 0 … 1, [images, 3, h, w], to [images, 3, scale · h, scale · w]."""

    scale: int


class _DenseBlock(Module):
    """Five convolutions, each of which reads the input and the outputs of all earlier ones."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            _conv(features + index * growth, growth) for index in range(4)
        )
        self.conv5 = _conv(features + 4 * growth, features)
        self._activation = LeakyReLU(0.2, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = x
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = torch.cat([features, self._activation(convolution(features))], dim=1)
        residual: torch.Tensor = self.conv5(features)
        return x + _RESIDUAL_SCALE * residual


class _ResidualInResidual(Module):
    """Three dense blocks in a residual branch."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(features, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + _RESIDUAL_SCALE * residual


class RRDBNet(Network):
    """ESRGAN's network of residual-in-residual dense blocks.

    Its layers upscale by 4; for a total scale of 2 or 1 it first folds 2 × 2 or 4 × 4 pixels into channels.
    """

    def __init__(self, *, scale: int, features: int, growth: int, num_blocks: int) -> None:
        super().__init__()
        self.scale, self._fold = scale, 4 // scale
        self.conv_first = _conv(3 * self._fold**2, features)
        self.body = Sequential(*(_ResidualInResidual(features, growth) for _ in range(num_blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (_conv(features, features) for _ in range(4))
        self.conv_last = _conv(features, 3)
        self._activation = LeakyReLU(0.2, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_first(pixel_unshuffle(x, self._fold) if self._fold > 1 else x)
        x = x + self.conv_body(self.body(x))
        for convolution in (self.conv_up1, self.conv_up2):
            x = self._activation(convolution(interpolate(x, scale_factor=2, mode="nearest")))
        upscaled: torch.Tensor = self.conv_last(self._activation(self.conv_hr(x)))
        return upscaled


class SRVGGNetCompact(Network):
    """Real-ESRGAN's compact network: plain convolutions at the input's size, then a pixel shuffle.

    Its output is the sum of the shuffled pixels and the input upscaled by nearest neighbour.
    """

    def __init__(self, *, scale: int, features: int, num_convolutions: int) -> None:
        super().__init__()
        self.scale = scale
        self.body = ModuleList([_conv(3, features), PReLU(features)])
        for _ in range(num_convolutions):
            self.body.extend([_conv(features, features), PReLU(features)])
        self.body.append(_conv(features, 3 * scale**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        detail = x
        for layer in self.body:
            detail = layer(detail)
        return pixel_shuffle(detail, self.scale) + interpolate(x, scale_factor=self.scale, mode="nearest")


def network_from(weights: Mapping[str, torch.Tensor]) -> Network:
    """Build the network that the weights belong to, and load them.

    Raises:
        ValueError: the keys and shapes are neither those of RRDBNet nor of SRVGGNetCompact.
    """
    try:
        network = _empty_network(weights)
        network.load_state_dict(dict(weights))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the weights belong neither to RRDBNet nor to SRVGGNetCompact: {error}") from error
    return network


def _empty_network(weights: Mapping[str, torch.Tensor]) -> Network:
    """Build a network of the architecture and size that `weights` have, without loading them.

    Raises KeyError if a weight that determines the size is missing.
    """
    if "conv_first.weight" in weights:
        features, channels = weights["conv_first.weight"].shape[:2]
        fold = math.isqrt(channels // 3)
        return RRDBNet(
            scale=4 // fold,
            features=features,
            growth=weights["body.0.rdb1.conv1.weight"].shape[0],
            num_blocks=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("body.")),
        )
    last = max((int(key.split(".")[1]) for key in weights if key.startswith("body.")), default=0)
    return SRVGGNetCompact(
        scale=math.isqrt(weights[f"body.{last}.weight"].shape[0] // 3),
        features=weights["body.0.weight"].shape[0],
        num_convolutions=last // 2 - 1,
    )


def _conv(channels: int, features: int) -> Conv2d:
    return Conv2d(channels, features, 3, padding=1)
