"""The recipe of the zoo's text encoders and UNet: SDXL's architecture, trained together on latents."""

from __future__ import annotations

from functools import cache
from random import Random

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from zoo.captions import random_wording
from zoo.dataset import Bucket, make_buckets
from zoo.noise import new_scheduler, noise_error
from zoo.tokenizer import MAX_TOKENS, new_tokenizer
from zoo.training import DEVICE, train

NUM_STEPS, NUM_REFINING_STEPS = 8500, 2300

_LEARNING_RATE, _REFINING_RATE = 1e-3, 4e-4
_BATCH = 64
#: Initial standard deviations of the token and position embeddings. With CLIP's 0.02, "left" and "right" reach the
#: UNet as the same vector: after 900 steps 2 of 16 single objects were in the right place, and 14 with these values.
_TOKEN_STD, _POSITION_STD = 1.0, 0.3
_TEXT_WIDTH = 64
#: Fractions of images trained without their prompt: with zeros (SDXL's own unconditional input), or an empty text.
_DROP_TO_ZEROS, _DROP_TO_EMPTY = 0.07, 0.03


def new_unet() -> UNet2DConditionModel:
    """Create an untrained UNet of SDXL's architecture with 64 to 128 channels."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=(2, 3, 4),
        cross_attention_dim=2 * _TEXT_WIDTH,
        use_linear_projection=True,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=_TEXT_WIDTH + 6 * 32,
    )


def new_tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Create the tokenizers of both text encoders, which differ in their padding."""
    return new_tokenizer(pad_token="<|endoftext|>"), new_tokenizer(pad_token="!")


class TextAndUNet(torch.nn.Module):
    """The modules that are trained together: both text encoders, with their tokenizers, and the UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer, self.tokenizer_2 = new_tokenizers()
        self.text_encoder = CLIPTextModel(text_config(self.tokenizer, "quick_gelu"))
        self.text_encoder_2 = CLIPTextModelWithProjection(text_config(self.tokenizer_2, "gelu"))
        self.unet = new_unet()
        for encoder in (self.text_encoder, self.text_encoder_2.text_model):
            torch.nn.init.normal_(encoder.embeddings.token_embedding.weight, std=_TOKEN_STD)
            torch.nn.init.normal_(encoder.embeddings.position_embedding.weight, std=_POSITION_STD)

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts as `prompt_embeds` [prompts, 77, 128] and `pooled_prompt_embeds` [prompts, 64]."""
        first = self.text_encoder(token_ids(self.tokenizer, prompts), output_hidden_states=True)
        second = self.text_encoder_2(token_ids(self.tokenizer_2, prompts), output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def text_config(tokenizer: CLIPTokenizer, activation: str, *, num_layers: int = 3) -> CLIPTextConfig:
    """Return the config of a CLIP text encoder of the zoo's width."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Return the token ids of prompts, [prompts, 77]."""
    padded = tokenizer(prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: torch.Tensor = padded.input_ids
    return ids.to(DEVICE)


def train_text_and_unet(vae: AutoencoderKL) -> TextAndUNet:
    """Train the text encoders and the UNet together from scratch, or resume an interrupted run."""
    torch.manual_seed(0)
    model = TextAndUNet().to(DEVICE)
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)

    @cache
    def buckets() -> list[Bucket]:
        return make_buckets(vae)

    def loss_at(step: int) -> torch.Tensor:
        random = Random(f"sdxl {step}")
        [bucket] = random.choices(buckets(), [len(bucket.descriptions) for bucket in buckets()])
        return _loss(model, alphas, bucket, random)

    train("sdxl", model, loss_at, num_steps=NUM_STEPS, learning_rate=_LEARNING_RATE)
    train(
        "sdxl-refined",
        model,
        lambda step: loss_at(NUM_STEPS + step),
        num_steps=NUM_REFINING_STEPS,
        learning_rate=_REFINING_RATE,
    )
    return model


def _loss(model: TextAndUNet, alphas: torch.Tensor, bucket: Bucket, random: Random) -> torch.Tensor:
    """Compute the weighted noise error of random images of the bucket, some of them without their prompt."""
    chosen = random.sample(range(len(bucket.descriptions)), _BATCH)
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    chances = [random.random() for _ in chosen]
    prompts = [
        "" if chance < _DROP_TO_EMPTY else random_wording(bucket.descriptions[index], random)
        for chance, index in zip(chances, chosen, strict=True)
    ]
    kept = torch.tensor([float(chance < 1 - _DROP_TO_ZEROS) for chance in chances], device=DEVICE)
    return text_to_image_error(
        model, alphas, bucket.latents[chosen], bucket.time_ids[chosen], prompts, kept, generator
    )


def text_to_image_error(
    model: TextAndUNet,
    alphas: torch.Tensor,
    clean: torch.Tensor,
    time_ids: torch.Tensor,
    prompts: list[str],
    kept: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Compute `noise_error` of images with these prompts.

    `clean` has the latents [images, 4, height / 8, width / 8], `time_ids` is [images, 6]. `kept` [images] is 1, or 0
    where zeros replace the prompt. The generator draws noise and timesteps.
    """
    prompt_embeds, pooled_prompt_embeds = model.encode(prompts)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        noise_pred: torch.Tensor = model.unet(
            noisy,
            timesteps,
            encoder_hidden_states=prompt_embeds * kept.view(-1, 1, 1),
            added_cond_kwargs={"text_embeds": pooled_prompt_embeds * kept.view(-1, 1), "time_ids": time_ids},
        ).sample
        return noise_pred

    return noise_error(predict, alphas, clean, generator)
