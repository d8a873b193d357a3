"""What making pictures larger is bounded by, and called."""

from __future__ import annotations

#: What made a picture larger where there is no network for it.
BICUBIC = "bicubic"
MAX_SCALE = 4
#: Of the larger picture.
MAX_UPSCALED_PIXELS = 4096 * 4096
