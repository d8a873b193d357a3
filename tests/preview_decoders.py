"""Preview decoders that paint what a test can foresee, for models that have none."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files


def write_decoder(folder: Path) -> Files:
    """Write a decoder whose images are as red, green and blue as the first three channels of the latents.

    A channel of 0 gives 0 and one of 1 gives nearly 255, by the decoder's range of 0 … 1 and its bounded inputs.
    """
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(4,),
        num_encoder_blocks=(0,),
        decoder_block_out_channels=(4,) * 4,
        num_decoder_blocks=(0,) * 4,
    )
    for layer in tiny.decoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
            for channel in range(layer.out_channels):
                layer.weight.data[channel, channel, 1, 1] = 1
    tiny.save_pretrained(folder)
    return Files(folder=folder)


def with_decoder(catalogue: Catalogue, folder: Path) -> Catalogue:
    """Return the catalogue with a decoder, and no projection, for its only model."""
    [model] = catalogue.models
    decoded = model.model_copy(update={"preview_decoder": write_decoder(folder), "latent_rgb": None})
    return catalogue.model_copy(update={"models": (decoded,)})
