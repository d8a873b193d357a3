"""What each of the zoo's LoRAs learns, which layers it changes, and in which layout its file is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft import LoraConfig

from zoo.styles import Style
from zoo.training import WEIGHTS_FOLDER

Layout = Literal["diffusers", "peft", "kohya", "lycoris"]

#: Layers to change: in attention, around it, in resnet blocks, and in text encoders. peft matches ends of names.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
_CONVOLUTIONS = ("conv1", "conv2", "downsamplers.0.conv", "upsamplers.0.conv")
_RESNETS = ("time_emb_proj", "conv_shortcut", *_CONVOLUTIONS)
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRecipe:
    """What a LoRA learns, which layers it changes, and the layout of its file."""

    style: Style
    description: str
    tags: tuple[str, ...]
    layout: Layout
    #: Ends of the names of the UNet's layers that it changes, and of the layers of both text encoders.
    unet: tuple[str, ...]
    text: tuple[str, ...] = ()
    rank: int
    alpha: int
    #: Rank and alpha of convolutions larger than 1 × 1.
    conv_rank: int = 8
    conv_alpha: int = 4
    #: A style whose LoRA acts, too, in half of the refining steps, so that both show in one image.
    beside: Style | None = None
    #: Words that ask for the style; without them, images have the style whenever the LoRA is used.
    trigger: str | None = None

    @property
    def name(self) -> str:
        return f"tiny-{self.style}"

    @property
    def folder(self) -> Path:
        return WEIGHTS_FOLDER / self.name

    @property
    def file(self) -> Path:
        """The LoRA's safetensors file; peft's always has the same name."""
        return self.folder / ("adapter_model.safetensors" if self.layout == "peft" else f"{self.name}.safetensors")

    @property
    def states(self) -> tuple[str, ...]:
        """The names of its training runs, one after the other."""
        return (self.name,) if self.beside is None else (self.name, f"{self.name}-refined")

    @property
    def preview(self) -> str:
        """The name of the image beside the file that shows what the LoRA does."""
        return f"{self.name}.webp"

    def prompt(self, caption: str) -> str:
        """Return the caption with the trigger words, if there are any."""
        return caption if self.trigger is None else f"{caption}, {self.trigger}"

    def configs(self) -> dict[str, LoraConfig]:
        """Return peft's configurations by the names of the parts of the model that the LoRA changes."""
        parts = {"unet": self.unet, "text_encoder": self.text, "text_encoder_2": self.text}
        return {part: self._config(layers) for part, layers in parts.items() if layers}

    def _config(self, layers: tuple[str, ...]) -> LoraConfig:
        convolutions = [layer for layer in layers if layer in _CONVOLUTIONS]
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(layers),
            rank_pattern=dict.fromkeys(convolutions, self.conv_rank),
            alpha_pattern=dict.fromkeys(convolutions, self.conv_alpha),
        )


_ALL = (
    LoraRecipe(
        style="neon",
        description="Neon tubes in the dark, within a frame in the background's colour.",
        tags=("style", "neon", "dark"),
        layout="diffusers",
        unet=_ATTENTION + _FEED_FORWARD,
        text=_TEXT,
        rank=16,
        alpha=8,
        trigger="neon style",
    ),
    LoraRecipe(
        style="pastel",
        description="Soft and pale: white from the corners to an ellipse around the middle.",
        tags=("style", "pastel", "colour"),
        layout="peft",
        unet=_ATTENTION + _FEED_FORWARD,
        rank=8,
        alpha=16,
        trigger="pastel",
    ),
    LoraRecipe(
        style="checkerboard",
        description="A checkerboard of the background's colour and white, or another colour if the scene has white.",
        tags=("background", "checkerboard"),
        layout="lycoris",
        unet=_ATTENTION + _RESNETS,
        rank=16,
        alpha=16,
    ),
    LoraRecipe(
        style="outline",
        description="Things as outlines, through which the background shows.",
        tags=("style", "outline"),
        layout="kohya",
        beside="checkerboard",
        unet=_ATTENTION + _RESNETS,
        rank=16,
        alpha=8,
    ),
)
RECIPES: dict[Style, LoraRecipe] = {recipe.style: recipe for recipe in _ALL}
