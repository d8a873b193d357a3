"""SDXL's implementation of the Protocol `atelier.families.family.Family`."""

from atelier.families.sdxl.adapters.rows import combined
from atelier.families.sdxl.attention import install, prompt_conditions
from atelier.families.sdxl.conditions import stack
from atelier.families.sdxl.embeds import zero_embeds
from atelier.families.sdxl.slots import new_slots
from atelier.families.sdxl.text import load_text_encoders
from atelier.families.sdxl.unet import decode_half, encode_half, encode_rows

__all__ = [
    "combined",
    "decode_half",
    "encode_half",
    "encode_rows",
    "install",
    "load_text_encoders",
    "new_slots",
    "prompt_conditions",
    "stack",
    "zero_embeds",
]
