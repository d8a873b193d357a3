"""The configs for small cards: whether the weights and the shares of the GPU add up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.options import DenoiserOptions, GraphArgs, ReplicaOptions

_CONFIGS = Path(__file__).parents[3] / "configs"
#: GiB of the GPU that a config may count on: what drivers report of cards that are sold as this large.
_CARDS_GIB = {"sdxl-24gb.yaml": 22.0, "sdxl-15gb.yaml": 14.5, "sdxl-6gb.yaml": 5.7}
#: Billions of parameters, from SDXL's published files.
_UNET, _LARGEST_BLOCK, _CONTROLNET, _TEXT_ENCODERS, _VAE = 2.567, 0.351, 1.251, 0.123 + 0.695, 0.084
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
#: GiB that are expected to be needed: by the CUDA context of a process, and by the activations of 20 rows.
_CONTEXT_GIB, _ACTIVATIONS_GIB = 0.3, 3.0

_EVERY_CARD = pytest.mark.parametrize("name", list(_CARDS_GIB))


def _application(name: str) -> ServeApplicationSchema:
    [application] = ServeDeploySchema.model_validate(yaml.safe_load((_CONFIGS / name).read_text())).applications
    return application


def _options(name: str) -> tuple[GraphArgs, Mapping[str, ReplicaOptions]]:
    args = GraphArgs.model_validate(_application(name).args)
    options: Mapping[str, ReplicaOptions] = {
        "TextEncoder": args.text_encoder,
        "Annotator": args.annotator,
        "Denoiser": args.denoiser,
        "Autoencoder": args.autoencoder,
        "Upscaler": args.upscaler,
    }
    return args, options


def _fractions(name: str) -> dict[str, float]:
    deployments = _application(name).deployments
    return {of.name: of.ray_actor_options.num_gpus for of in deployments if of.ray_actor_options.num_gpus}


def _gib(billions: float, options: ReplicaOptions) -> float:
    return billions * 1e9 * _BYTES[options.dtype] / 2**30


def _denoiser_gib(options: DenoiserOptions, *, has_controlnets: bool) -> float:
    """Return what must be in memory at once: the UNet or what a level has of it, one ControlNet, and activations."""
    num_blocks = {"sequential": 2, "aggressive": 1}.get(options.memory_level)
    unet = _UNET if num_blocks is None else num_blocks * _LARGEST_BLOCK
    return _gib(unet + _CONTROLNET * has_controlnets, options) + _ACTIVATIONS_GIB


@_EVERY_CARD
def test_what_is_needed_at_once_fits_its_budget(name: str) -> None:
    args, options = _options(name)
    needed = {
        "Denoiser": _denoiser_gib(args.denoiser, has_controlnets=bool(args.controlnets)),
        "TextEncoder": _gib(_TEXT_ENCODERS, args.text_encoder),
        "Autoencoder": _gib(_VAE, args.autoencoder),
    }
    for deployment, needed_gib in needed.items():
        if options[deployment].device == "cuda":
            memory_gib = options[deployment].memory_gib
            assert memory_gib is not None
            assert needed_gib <= memory_gib, deployment


@_EVERY_CARD
def test_budgets_fit_the_shares_of_the_card_and_the_shares_fit_the_card(name: str) -> None:
    _, options = _options(name)
    fractions, card_gib = _fractions(name), _CARDS_GIB[name]
    assert fractions.keys() == {deployment for deployment, of in options.items() if of.device == "cuda"}
    for deployment, fraction in fractions.items():
        assert (options[deployment].memory_gib or 0) < fraction * card_gib, deployment
    assert sum(of.memory_gib or 0 for of in options.values()) <= card_gib
    assert sum(fractions.values()) * card_gib + len(fractions) * _CONTEXT_GIB <= card_gib


@_EVERY_CARD
def test_what_does_not_stay_on_the_card_has_room_in_host_memory(name: str) -> None:
    args, options = _options(name)
    denoiser = args.denoiser
    assert denoiser.memory_gib is not None
    all_gib = _gib(_UNET + _CONTROLNET * len(args.controlnets or ()), denoiser)
    if all_gib > denoiser.memory_gib:
        assert denoiser.host_memory_gib >= all_gib
    for of in options.values():
        if of.memory_level != "none":
            assert of.host_memory_gib >= (of.memory_gib or 0)


def test_smaller_cards_get_smaller_budgets() -> None:
    budgets = [GraphArgs.model_validate(_application(name).args).denoiser.memory_gib or 0 for name in _CARDS_GIB]
    assert budgets == sorted(budgets, reverse=True)
