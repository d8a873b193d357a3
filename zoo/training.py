"""The training loop of every model of the zoo: fixed seeds, averaged weights, and resumption of interrupted runs.

A recipe passes a module and a loss. The loss is a function of the step alone, so a resumed run sees the same images
as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
#: Folder of the states of unfinished runs.
STATE_FOLDER = Path(__file__).parent / ".training"

EMA_DECAY = 0.999
_SAVE_EVERY_STEPS = 250
#: Fraction of the steps in which the learning rate rises.
_WARM_UP = 0.05


def train(
    name: str,
    module: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    ema_decay: float = EMA_DECAY,
) -> None:
    """Minimise `loss_at(step)` over the module's parameters, then set them to their moving average."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=1e-3)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
    state_file = STATE_FOLDER / f"{name}.pt"
    first_step = _resume(state_file, module, average, optimizer)
    bar = tqdm(range(first_step, num_steps), desc=name, initial=first_step, total=num_steps, mininterval=10)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _one_cycle(step / num_steps)
        # On the CPU, half of a step is the backward pass of fused attention; plain attention saves a third of a step.
        with sdpa_kernel(SDPBackend.MATH):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = loss_at(step)
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(module)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        if (step + 1) % _SAVE_EVERY_STEPS == 0 or step + 1 == num_steps:
            _save(state_file, step + 1, module, average, optimizer)
    module.load_state_dict(average.module.state_dict())


class Savable(Protocol):
    """A model of diffusers or transformers."""

    def save_pretrained(self, folder: Path, *, safe_serialization: bool) -> object: ...


def write_weights(model: Savable, folder: Path) -> None:
    """Write a model as safetensors files that all users may read."""
    model.save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def delete_states(*names: str) -> None:
    """Delete the states of finished runs, so that the next run starts from scratch."""
    for name in names:
        (STATE_FOLDER / f"{name}.pt").unlink()


def _one_cycle(progress: float) -> float:
    """Return the factor of the learning rate: a linear warm-up, then half a cosine down to 0.01."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.01 + 0.495 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def _save(
    state_file: Path,
    next_step: int,
    module: torch.nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
) -> None:
    STATE_FOLDER.mkdir(exist_ok=True)
    unfinished = state_file.with_suffix(".tmp")
    state = {
        "next_step": next_step,
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, unfinished)
    unfinished.replace(state_file)


def _resume(
    state_file: Path, module: torch.nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer
) -> int:
    if not state_file.exists():
        return 0
    state = torch.load(state_file, map_location=DEVICE, weights_only=True)
    module.load_state_dict(state["module"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["next_step"])
