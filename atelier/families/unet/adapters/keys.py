"""The keys of a LoRA file, sorted by the layers that they change.

This module knows how trainers spell keys, but neither tensors nor models. A key that it does not know is an error, so
that no part of a file is dropped silently. All errors are ValueErrors whose messages name the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["unet", "text_encoder", "text_encoder_2"]

#: The prefix of every key that peft's `save_pretrained` writes.
PEFT_PREFIX = "base_model.model."

#: Prefixes of kohya's sd-scripts and LyCORIS, then of diffusers and peft. A key without one belongs to the UNet.
_PREFIXES: dict[str, Part] = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "lycoris_": "unet",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    PEFT_PREFIX: "unet",
}

_LYCORIS = (
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)

#: What a key holds, by its end.
_ENDS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
    **{f".{name}": name for name in _LYCORIS},
}

_DORA = ("dora_scale", "lora_magnitude_vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKeys:
    """The keys of a file that together change one layer."""

    part: Part
    #: How the keys begin, such as `lora_unet_`, or an empty string.
    prefix: str
    #: The layer's name as the file spells it, without prefix and end.
    name: str
    #: Keys by what they hold: `down`, `up`, `mid`, `alpha` or LyCORIS' names such as `hada_w1_a`.
    keys: dict[str, str] = field(default_factory=dict)


def by_layer(keys: Iterable[str]) -> list[LayerKeys]:
    """Sort a file's keys by layer. Raises ValueError if a key is unknown, and if the file has no keys."""
    layers: dict[str, LayerKeys] = {}
    for key in keys:
        stem, factor = _split(key)
        prefix, part = next(((each, _PREFIXES[each]) for each in _PREFIXES if stem.startswith(each)), ("", "unet"))
        name = stem.removeprefix(prefix)
        layer = layers.setdefault(stem, LayerKeys(part=part, prefix=prefix, name=name))
        if factor in layer.keys:
            raise ValueError(f"the keys {layer.keys[factor]!r} and {key!r} are the same factor of one layer.")
        layer.keys[factor] = key
    if not layers:
        raise ValueError("the file holds no tensors.")
    return list(layers.values())


def _split(key: str) -> tuple[str, str]:
    """Split a key into the layer's name, still with its prefix, and what the key holds."""
    if any(word in key for word in _DORA):
        raise ValueError(
            f"its key {key!r} makes it a DoRA, which is not supported. Train it without weight decomposition."
        )
    for end, factor in _ENDS.items():
        if key.endswith(end):
            return key.removesuffix(end), factor
    raise ValueError(
        f"its key {key!r} is not known. Supported are LoRA, LoCon, LoHa and LoKr as diffusers, peft, kohya's "
        "sd-scripts and LyCORIS write them."
    )
