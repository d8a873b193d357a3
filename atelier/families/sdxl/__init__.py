"""SDXL's implementation of the Protocol `atelier.families.family.Family`."""

from atelier.families.sdxl.model import install
from atelier.families.sdxl.text import load_text_encoders
from atelier.families.unet.adapters.rows import forms
from atelier.families.unet.attention import prompt_conditions, request_adapters
from atelier.families.unet.conditions import stack
from atelier.families.unet.embeds import zero_embeds
from atelier.families.unet.graphs import graph
from atelier.families.unet.halves import block_names, decode_half, encode_half, encode_rows
from atelier.families.unet.slots import new_slots
from atelier.families.unet.tensors import example_conditions
from atelier.families.unet.traced import trace

__all__ = [
    "block_names",
    "decode_half",
    "encode_half",
    "encode_rows",
    "example_conditions",
    "forms",
    "graph",
    "install",
    "load_text_encoders",
    "new_slots",
    "prompt_conditions",
    "request_adapters",
    "stack",
    "trace",
    "zero_embeds",
]
