"""The recipe of the zoo's LoRAs: one style each, trained with peft beside the frozen tiny-sdxl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL
from peft import PeftModel, get_peft_model
from tqdm import tqdm

from zoo import lora_files, tiny_sdxl
from zoo.captions import canonical, random_wording
from zoo.dataset import random_training_description
from zoo.lora_recipes import RECIPES, LoraRecipe
from zoo.scenes import Description, arrange, draw
from zoo.sdxl import TextAndUNet, new_scheduler, noise_error
from zoo.styles import Style, draw_styled
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, train
from zoo.vae import encode

NUM_STEPS = 1200

_LEARNING_RATE = 2e-3
_EMA_DECAY = 0.995
_BATCH = 16
_NUM_SCENES = 2000
_SIDE_PX = 128
_ENCODE_BATCH = 50
#: Fraction of images trained with zeros in place of their prompt.
_DROP = 0.1
#: Fraction of images without the style, whose captions lack the trigger words, for LoRAs that have them.
_PLAIN = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainingImages:
    """Training images as latents, and their descriptions."""

    #: [images, 4, 16, 16], scaled as the UNet reads latents.
    styled: torch.Tensor
    #: The same scenes without the style; None for a LoRA without trigger words.
    plain: torch.Tensor | None
    descriptions: list[Description]


def make(style: Style) -> None:
    """Train the LoRA of a style from scratch (resuming an interrupted run) and write its file in fp16."""
    recipe = RECIPES[style]
    vae, model = tiny_sdxl.load()
    images = _training_images(recipe, vae)
    parts = _train(recipe, model, images)
    model.half()
    _write(recipe, parts, WEIGHTS_FOLDER / recipe.name, images.descriptions)
    delete_states(recipe.name)


def _train(recipe: LoraRecipe, model: TextAndUNet, images: _TrainingImages) -> dict[str, PeftModel]:
    """Add low-rank changes to the model's layers, in place, and train them; return the changed parts by name."""
    torch.manual_seed(0)
    model.requires_grad_(False)
    parts = {name: get_peft_model(model.get_submodule(name), config) for name, config in recipe.configs().items()}
    trained = torch.nn.ParameterList([weight for weight in model.parameters() if weight.requires_grad])
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)
    train(
        recipe.name,
        trained,
        lambda step: _loss(recipe, model, alphas, images, Random(f"{recipe.name} {step}")),
        num_steps=NUM_STEPS,
        learning_rate=_LEARNING_RATE,
        ema_decay=_EMA_DECAY,
    )
    return parts


def _training_images(recipe: LoraRecipe, vae: AutoencoderKL) -> _TrainingImages:
    random = Random("lora scenes")
    styled, plain, descriptions = [], [], []
    for _ in tqdm(range(_NUM_SCENES // _ENCODE_BATCH), desc=f"{recipe.name}: draw", mininterval=10):
        scenes = [
            arrange(random_training_description(random), random, width=_SIDE_PX, height=_SIDE_PX)
            for _ in range(_ENCODE_BATCH)
        ]
        descriptions += [scene.description for scene in scenes]
        styled.append(encode(vae, [draw_styled(scene, {recipe.style}) for scene in scenes]))
        if recipe.trigger is not None:
            plain.append(encode(vae, [draw(scene) for scene in scenes]))
    return _TrainingImages(
        styled=torch.cat(styled), plain=torch.cat(plain) if plain else None, descriptions=descriptions
    )


def _loss(
    recipe: LoraRecipe, model: TextAndUNet, alphas: torch.Tensor, images: _TrainingImages, random: Random
) -> torch.Tensor:
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
    side = float(_SIDE_PX)
    time_ids = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=DEVICE).expand(_BATCH, -1)
    return noise_error(model, alphas, clean, time_ids, prompts, kept, generator)


def _write(recipe: LoraRecipe, parts: Mapping[str, PeftModel], folder: Path, descriptions: list[Description]) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / f"{recipe.stem}.safetensors"
    if recipe.layout == "diffusers":
        lora_files.write_diffusers(parts, file)
    elif recipe.layout == "peft":
        lora_files.write_peft(parts["unet"], folder)
    else:
        header = lora_files.kohya_header(recipe, map(canonical, descriptions), NUM_STEPS)
        layers = parts["unet"].config["layers_per_block"] if recipe.layout == "kohya" else None
        lora_files.write_kohya(parts["unet"], file, header, layers_per_block=layers)
    file.chmod(0o644)
    (folder / f"{recipe.stem}.json").write_text(json.dumps(_entry(recipe), indent=2) + "\n")


def _entry(recipe: LoraRecipe) -> dict[str, object]:
    """Return what a list of LoRAs shows of this one."""
    return {
        "description": recipe.description,
        "tags": recipe.tags,
        "trigger_words": [] if recipe.trigger is None else [recipe.trigger],
        "licence": "Apache-2.0",
        "weight": 1.0,
        "base": "tiny-sdxl",
        "preview": recipe.preview,
    }
