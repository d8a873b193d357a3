"""SDXL's implementation of the Protocol `atelier.families.family.Family`."""

from atelier.families.sdxl.adapters.rows import forms
from atelier.families.sdxl.attention import install, prompt_conditions, request_adapters
from atelier.families.sdxl.conditions import stack
from atelier.families.sdxl.embeds import zero_embeds
from atelier.families.sdxl.slots import new_slots
from atelier.families.sdxl.text import load_text_encoders
from atelier.families.sdxl.traced import trace
from atelier.families.sdxl.unet import block_names, decode_half, encode_half, encode_rows

__all__ = [
    "block_names",
    "decode_half",
    "encode_half",
    "encode_rows",
    "forms",
    "install",
    "load_text_encoders",
    "new_slots",
    "prompt_conditions",
    "request_adapters",
    "stack",
    "trace",
    "zero_embeds",
]
