"""The recipe of the zoo's LoRAs: one style each, trained with peft beside the frozen tiny-sdxl.

Two LoRAs that were trained alone disturb each other, since both change how things meet the background. So one of them
is refined beside the other, which stays as it is.
"""

from __future__ import annotations

from random import Random

import torch
from diffusers import AutoencoderKL
from peft import get_peft_model

from zoo import lora_folder, tiny_sdxl
from zoo.captions import canonical, random_wording
from zoo.lora_files import TRAINED, load_into_unet, lora_layers
from zoo.lora_images import SIDE_PX, TrainingImages, training_images
from zoo.lora_recipes import RECIPES, LoraRecipe
from zoo.noise import new_scheduler
from zoo.sdxl import TextAndUNet, text_to_image_error
from zoo.styles import Style
from zoo.training import DEVICE, delete_states, train

NUM_STEPS, NUM_REFINING_STEPS = 1200, 600

_LEARNING_RATE, _REFINING_RATE = 2e-3, 1e-3
_EMA_DECAY = 0.995
_BATCH = 16
#: Fraction of images trained with zeros in place of their prompt.
_DROP = 0.1
#: Fraction of images without the style, whose captions lack the trigger words, for LoRAs that have them.
_PLAIN = 0.4


def make(style: Style) -> None:
    """Train the LoRA of a style from scratch (resuming an interrupted run) and write its file in fp16."""
    recipe = RECIPES[style]
    vae, model = tiny_sdxl.load()
    torch.manual_seed(0)
    model.requires_grad_(False)
    parts = {name: get_peft_model(model.get_submodule(name), config) for name, config in recipe.configs().items()}
    trained = torch.nn.ParameterList([weight for weight in model.parameters() if weight.requires_grad])
    images = training_images(vae, {style}, None if recipe.trigger is None else ())
    train(
        recipe.name,
        trained,
        lambda step: _loss(recipe, model, images, Random(f"{recipe.name} {step}")),
        num_steps=NUM_STEPS,
        learning_rate=_LEARNING_RATE,
        ema_decay=_EMA_DECAY,
    )
    num_steps = NUM_STEPS
    if recipe.beside is not None:
        _refine(recipe, RECIPES[recipe.beside], vae, model, trained, images)
        num_steps += NUM_REFINING_STEPS
    model.half()
    lora_folder.write(recipe, parts, [canonical(description) for description in images.descriptions], num_steps)
    delete_states(*recipe.states)


def _refine(
    recipe: LoraRecipe,
    other: LoraRecipe,
    vae: AutoencoderKL,
    model: TextAndUNet,
    trained: torch.nn.ParameterList,
    alone: TrainingImages,
) -> None:
    """Train a LoRA further, in every second step beside the committed one of another style."""
    styles = {recipe.style, other.style}
    both = training_images(vae, styles, None if recipe.trigger is None else {other.style})
    load_into_unet(other.file, model.unet, other.style)
    layers = [layer for _, layer in lora_layers(model.unet)]
    for layer in layers:
        layer.set_adapter([TRAINED, other.style])
    model.requires_grad_(False)
    trained.requires_grad_(True)

    def loss_at(step: int) -> torch.Tensor:
        is_beside = step % 2 == 1
        for layer in layers:
            layer.set_scale(other.style, float(is_beside))
        return _loss(recipe, model, both if is_beside else alone, Random(f"{recipe.states[-1]} {step}"))

    train(
        recipe.states[-1],
        trained,
        loss_at,
        num_steps=NUM_REFINING_STEPS,
        learning_rate=_REFINING_RATE,
        ema_decay=_EMA_DECAY,
    )


def _loss(recipe: LoraRecipe, model: TextAndUNet, images: TrainingImages, random: Random) -> torch.Tensor:
    """Compute the weighted noise error of images in the style; if there are trigger words, of some without both."""
    chosen = random.sample(range(len(images.descriptions)), _BATCH)
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    clean = images.styled[chosen]
    prompts = [random_wording(images.descriptions[index], random) for index in chosen]
    if images.plain is not None:
        has_style = [random.random() >= _PLAIN for _ in chosen]
        clean = torch.where(torch.tensor(has_style, device=DEVICE).view(-1, 1, 1, 1), clean, images.plain[chosen])
        prompts = [recipe.prompt(one) if styled else one for one, styled in zip(prompts, has_style, strict=True)]
    kept = torch.tensor([float(random.random() >= _DROP) for _ in chosen], device=DEVICE)
    side = float(SIDE_PX)
    time_ids = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=DEVICE).expand(_BATCH, -1)
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)
    return text_to_image_error(model, alphas, clean, time_ids, prompts, kept, generator)
