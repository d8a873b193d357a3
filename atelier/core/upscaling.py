"""Limits of image enlargement: scale, and pixels of inputs and results."""

from __future__ import annotations

#: Name of the resampling that stands in for an upscaler without weights.
BICUBIC = "bicubic"
MAX_SCALE = 4
#: Largest image an enlargement may make, in pixels.
MAX_UPSCALED_PIXELS = 4096 * 4096
#: Largest sum over all enlarged images of a request, in pixels.
MAX_TOGETHER_PIXELS = 4 * MAX_UPSCALED_PIXELS
#: Largest input of an upscaling network, in pixels; its output has up to 16 times as many, whatever the final size.
MAX_READ_PIXELS = 2048 * 2048
#: Networks fold up to 4 × 4 pixels into one (pixel unshuffle), so input sides are padded to multiples of 4.
FOLD_PX = 4
