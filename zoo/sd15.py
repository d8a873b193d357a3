"""The recipe of tiny-sd15: Stable Diffusion 1.5's architecture, trained on the latents of tiny-sdxl's VAE.

It starts from tiny-sdxl's weights where their shapes fit, which takes a few minutes instead of an hour.
"""

from __future__ import annotations

from functools import cache
from random import Random

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from zoo.captions import random_wording
from zoo.dataset import Bucket, make_buckets
from zoo.noise import new_scheduler, noise_error
from zoo.sdxl import TextAndUNet, text_config, token_ids
from zoo.tokenizer import new_tokenizer
from zoo.training import DEVICE, train

NUM_STEPS = 1000

_LEARNING_RATE = 1e-3
_BATCH = 32
#: The average forgets the first steps sooner than that of a run from scratch.
_EMA_DECAY = 0.99
#: Number of images by (width, height) in pixels.
_SIZES = {(128, 128): 4000, (96, 128): 350, (128, 96): 350, (64, 64): 350, (160, 160): 350}
_TEXT_WIDTH, _NUM_TEXT_LAYERS = 64, 2
#: Fraction of images trained with an empty text, the unconditional input of Stable Diffusion 1.5.
_DROP = 0.1


def new_unet() -> UNet2DConditionModel:
    """Create an untrained UNet of Stable Diffusion 1.5's architecture with 64 to 128 channels."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=_TEXT_WIDTH,
        norm_num_groups=16,
    )


class TextAndSd15UNet(torch.nn.Module):
    """The modules that are trained together: the text encoder, with its tokenizer, and the UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = new_tokenizer(pad_token="<|endoftext|>")
        config = text_config(self.tokenizer, "quick_gelu", num_layers=_NUM_TEXT_LAYERS)
        self.text_encoder = CLIPTextModel(config)
        self.unet = new_unet()

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts as `prompt_embeds` [prompts, 77, 64], behind the encoder's last norm."""
        prompt_embeds: torch.Tensor = self.text_encoder(token_ids(self.tokenizer, prompts)).last_hidden_state
        return prompt_embeds


def train_text_and_unet(vae: AutoencoderKL, start: TextAndUNet) -> TextAndSd15UNet:
    """Train the text encoder and the UNet together from the weights of `start`, or resume an interrupted run."""
    torch.manual_seed(0)
    model = TextAndSd15UNet().to(DEVICE)
    _take_weights(model.text_encoder, start.text_encoder)
    _take_weights(model.unet, start.unet)
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)

    @cache
    def buckets() -> list[Bucket]:
        return make_buckets(vae, _SIZES, has_crops=False)

    def loss_at(step: int) -> torch.Tensor:
        random = Random(f"sd15 {step}")
        [bucket] = random.choices(buckets(), [len(bucket.descriptions) for bucket in buckets()])
        return _loss(model, alphas, bucket, random)

    train("sd15", model, loss_at, num_steps=NUM_STEPS, learning_rate=_LEARNING_RATE, ema_decay=_EMA_DECAY)
    return model


@torch.no_grad()
def _take_weights(model: torch.nn.Module, start: torch.nn.Module) -> None:
    """Copy the weights of layers of the same name from `start`.

    A linear layer becomes a 1×1 convolution. Of a layer that read both of SDXL's text encoders, the columns for the
    first one are taken. Weights of other shapes stay as they are.
    """
    found = start.state_dict()
    for name, weight in model.state_dict().items():
        if name not in found:
            continue
        other = found[name]
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            other = other[:, : weight.shape[1]]
        if len(other) == len(weight) and other.numel() == weight.numel():
            weight.copy_(other.reshape(weight.shape))


def _loss(model: TextAndSd15UNet, alphas: torch.Tensor, bucket: Bucket, random: Random) -> torch.Tensor:
    """Compute the weighted noise error of random images of the bucket, some of them with an empty text."""
    chosen = random.sample(range(len(bucket.descriptions)), _BATCH)
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    prompts = [
        "" if random.random() < _DROP else random_wording(bucket.descriptions[index], random) for index in chosen
    ]
    prompt_embeds = model.encode(prompts)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        noise_pred: torch.Tensor = model.unet(noisy, timesteps, encoder_hidden_states=prompt_embeds).sample
        return noise_pred

    return noise_error(predict, alphas, bucket.latents[chosen], generator)
