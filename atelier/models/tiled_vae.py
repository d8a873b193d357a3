"""A VAE that runs over the tiles of an image, one layer after the other.

The activations of a whole image are in host memory, and one tile of them is on the device. Every layer runs over all
tiles before the next one begins, so that a group normalization has the mean and the variance of the whole image, and
a convolution reads the pixels around its tile. The result is that of the whole image but for rounding, with no seams
to blend. What works at the resolution of the latents, attention above all, runs on the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from diffusers.models.resnet import ResnetBlock2D

_Operation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How images are cut into tiles."""

    #: Sides of tiles, in pixels of each layer. Even, because a layer may double or halve the resolution.
    tile_px: int = 256
    #: Images of more pixels are cut.
    max_whole_pixels: int = 512 * 512


@dataclass(frozen=True, slots=True)
class _Range:
    """Rows or columns that a convolution reads, and how many zeros it reads before and after them."""

    start: int
    end: int
    zeros_before: int
    zeros_after: int

    @classmethod
    def of(cls, start: int, end: int, side: int) -> _Range:
        """Return the range from `start` to `end` of an image of this side; what is outside of the image is zero."""
        return cls(max(start, 0), min(end, side), max(-start, 0), max(end - side, 0))


class TiledVae:
    """The VAE of one image at a time; its weights must be on the device during a call."""

    def __init__(self, vae: AutoencoderKL, device: str, tile_px: int) -> None:
        self._vae = vae
        self._device = device
        self._tile_px = tile_px

    def encode(self, images: torch.Tensor) -> DiagonalGaussianDistribution:
        """Return the posterior of images [images, 3, height, width] in -1 … 1, whose sides are multiples of 8."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        moments = torch.cat([self._moments(image) for image in images.split(1)])
        return DiagonalGaussianDistribution(moments)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the images [images, 3, height, width] of latents [images, 4, height / 8, width / 8]."""
        return torch.cat([self._image(of_image) for of_image in latents.split(1)])

    def _moments(self, image: torch.Tensor) -> torch.Tensor:
        encoder = self._vae.encoder
        x = self._convolved(encoder.conv_in, image.cpu())
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                x = self._resnet(resnet, x)
            for downsampler in block.downsamplers or ():
                x = self._convolved(downsampler.conv, x)
        sample = encoder.mid_block(x.to(self._device))
        moments: torch.Tensor = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(sample)))
        return moments if self._vae.quant_conv is None else self._vae.quant_conv(moments)

    def _image(self, latents: torch.Tensor) -> torch.Tensor:
        decoder, post_quant_conv = self._vae.decoder, self._vae.post_quant_conv
        sample = latents if post_quant_conv is None else post_quant_conv(latents)
        x = decoder.mid_block(decoder.conv_in(sample)).cpu()
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = self._resnet(resnet, x)
            for upsampler in block.upsamplers or ():
                x = self._convolved(upsampler.conv, x, is_doubled=True)
        activated = self._activated(decoder.conv_norm_out, decoder.conv_act, x)
        return self._convolved(decoder.conv_out, x, before=activated).to(self._device)

    def _resnet(self, resnet: ResnetBlock2D, x: torch.Tensor) -> torch.Tensor:
        """Return the output of a residual block (He et al. 2015); it takes the place of `x` if it has its shape."""
        activation, shortcut, factor = resnet.nonlinearity, resnet.conv_shortcut, resnet.output_scale_factor
        inner = self._convolved(resnet.conv1, x, before=self._activated(resnet.norm1, activation, x))
        output = x if shortcut is None else self._empty(resnet.conv2.out_channels, *x.shape[2:], like=x)
        before = self._activated(resnet.norm2, activation, inner)
        for rows, columns in self._tiles(*x.shape[2:]):
            own = x[:, :, rows, columns].to(self._device)
            residual = own if shortcut is None else shortcut(own)
            changed = self._tile(resnet.conv2, inner, rows, columns, before=before)
            output[:, :, rows, columns] = ((residual + changed) / factor).cpu()
        return output

    def _convolved(
        self, conv: torch.nn.Conv2d, x: torch.Tensor, *, before: _Operation | None = None, is_doubled: bool = False
    ) -> torch.Tensor:
        """Convolve `x` [1, channels, h, w], changed by `before`, or with its resolution doubled."""
        height, width = (side * 2 if is_doubled else side // conv.stride[0] for side in x.shape[2:])
        output = self._empty(conv.out_channels, height, width, like=x)
        for rows, columns in self._tiles(height, width):
            tile = self._tile(conv, x, rows, columns, before=before, is_doubled=is_doubled)
            output[:, :, rows, columns] = tile.cpu()
        return output

    def _tile(
        self,
        conv: torch.nn.Conv2d,
        x: torch.Tensor,
        rows: slice,
        columns: slice,
        *,
        before: _Operation | None = None,
        is_doubled: bool = False,
    ) -> torch.Tensor:
        """Return one tile of a convolution's output: its padding is zero only where the image ends."""
        factor = 2 if is_doubled else 1
        height, width = (side * factor for side in x.shape[2:])
        of_rows, of_columns = _read(conv, rows, height), _read(conv, columns, width)
        read = x[:, :, _part(of_rows, factor), _part(of_columns, factor)].to(self._device)
        if is_doubled:
            read = functional.interpolate(read, scale_factor=2.0, mode="nearest")
            read = read[:, :, _within(of_rows), _within(of_columns)]
        if before is not None:
            read = before(read)
        zeros = (of_columns.zeros_before, of_columns.zeros_after, of_rows.zeros_before, of_rows.zeros_after)
        return functional.conv2d(functional.pad(read, zeros), conv.weight, conv.bias, conv.stride)

    def _activated(self, norm: torch.nn.GroupNorm, activation: _Operation, x: torch.Tensor) -> _Operation:
        """Return a function that normalizes tiles by the mean and variance of all of `x`, and activates them."""
        mean, variance = self._moments_of_groups(x, norm.num_groups)
        inverse = torch.rsqrt(variance + norm.eps)
        num_channels = norm.num_channels // norm.num_groups
        mean, inverse = (moment.float().repeat_interleave(num_channels) for moment in (mean, inverse))
        factor = norm.weight.float() * inverse
        offset = (norm.bias.float() - mean * factor)[:, None, None]

        def operation(tile: torch.Tensor) -> torch.Tensor:
            return activation(torch.addcmul(offset, tile.float(), factor[:, None, None]).to(tile.dtype))

        return operation

    def _moments_of_groups(self, x: torch.Tensor, num_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and variance of each group of channels, combined from those of tiles (Chan et al. 1983)."""
        count, mean, squares = 0, *torch.zeros(2, num_groups, dtype=torch.float64, device=self._device)
        for rows, columns in self._tiles(*x.shape[2:]):
            groups = x[:, :, rows, columns].to(self._device).float().reshape(num_groups, -1)
            of_tile, mean_of_tile = (moment.double() for moment in torch.var_mean(groups, dim=1, correction=0))
            num_values = groups.shape[1]
            difference, share = mean_of_tile - mean, num_values / (count + num_values)
            mean = mean + difference * share
            squares = squares + of_tile * num_values + difference.square() * count * share
            count += num_values
        return mean, squares / count

    def _tiles(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        for top in range(0, height, self._tile_px):
            for left in range(0, width, self._tile_px):
                yield _slice(top, self._tile_px, height), _slice(left, self._tile_px, width)

    def _empty(self, channels: int, height: int, width: int, *, like: torch.Tensor) -> torch.Tensor:
        """Return activations in host memory, from where tiles are copied to the device fast."""
        pinned = self._device != "cpu"
        return torch.empty((1, channels, height, width), dtype=like.dtype, pin_memory=pinned)


def _slice(start: int, length: int, side: int) -> slice:
    return slice(start, min(start + length, side))


def _read(conv: torch.nn.Conv2d, output: slice, side: int) -> _Range:
    """Return what a convolution reads for a range of its output. With stride 2 it pads only the end of an image."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    before = (kernel - 1) // 2 if stride == 1 else 0
    start = output.start * stride - before
    return _Range.of(start, (output.stop - 1) * stride - before + kernel, side)


def _part(of: _Range, factor: int) -> slice:
    """Return the pixels that have a range in them once the resolution is multiplied by `factor`."""
    return slice(of.start // factor, -(-of.end // factor))


def _within(of: _Range) -> slice:
    """Return the range within the pixels of `_part`, after their resolution was doubled."""
    start = of.start % 2
    return slice(start, start + of.end - of.start)
