"""Sizes of images in pixels, and of their latents."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Side, in pixels, of the square that one latent position stands for (SDXL's VAE).
PIXELS_PER_LATENT = 8

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Width and height of an image in pixels, written `128x96`."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an image of {self.width}x{self.height} has no pixels")

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read a size. Raises ValueError if the text is not WIDTHxHEIGHT."""
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError(f"expected WIDTHxHEIGHT, got {text!r}")
        return cls(width=int(match[1]), height=int(match[2]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def num_pixels(self) -> int:
        return self.width * self.height

    @property
    def latent_width(self) -> int:
        return self.width // PIXELS_PER_LATENT

    @property
    def latent_height(self) -> int:
        return self.height // PIXELS_PER_LATENT

    @property
    def num_latent_positions(self) -> int:
        return self.latent_width * self.latent_height

    @property
    def is_whole_latents(self) -> bool:
        """Whether both sides are multiples of `PIXELS_PER_LATENT`, as everything that is denoised must be."""
        return self.width % PIXELS_PER_LATENT == 0 and self.height % PIXELS_PER_LATENT == 0

    def scaled(self, scale: float) -> Size:
        """Return the size with both sides `scale` times as long, rounded to whole pixels."""
        return Size(width=round(self.width * scale), height=round(self.height * scale))

    def in_whole_latents(self) -> Size:
        """Return the size with both sides rounded to multiples of `PIXELS_PER_LATENT`."""
        width, height = (PIXELS_PER_LATENT * round(side / PIXELS_PER_LATENT) for side in (self.width, self.height))
        return Size(width=width, height=height)
