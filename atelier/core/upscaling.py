"""What making pictures larger is bounded by, and called."""

from __future__ import annotations

#: What made a picture larger where there is no network for it.
BICUBIC = "bicubic"
MAX_SCALE = 4
#: Of the larger picture.
MAX_UPSCALED_PIXELS = 4096 * 4096
#: Of all larger pictures of a request.
MAX_TOGETHER_PIXELS = 4 * MAX_UPSCALED_PIXELS
#: Of a picture that a network reads: it makes up to 16 times as many, however large the picture becomes in the end.
MAX_READ_PIXELS = 2048 * 2048
#: Networks fold up to 4 × 4 pixels into one: what they read has sides of multiples of it.
FOLD_PX = 4
