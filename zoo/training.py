"""One training loop for every model of the zoo: fixed seeds, averaged weights, resumed where it stopped.

Knows nothing of what is trained: the recipe hands it a module and a loss that is a function of the step
alone, so an interrupted run goes on with the very pictures it would have seen.
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
#: Where interrupted runs are kept.
STATE_FOLDER = Path(__file__).parent / ".training"

_EMA_DECAY = 0.999
_SAVE_EVERY_STEPS = 250
_WARM_UP = 0.05


def train(
    name: str,
    module: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
) -> None:
    """Minimise `loss_at(step)` over the module's parameters and leave their moving average in it."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=1e-3)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(_EMA_DECAY))
    state_file = STATE_FOLDER / f"{name}.pt"
    first_step = _resume(state_file, module, average, optimizer)
    bar = tqdm(range(first_step, num_steps), desc=name, initial=first_step, total=num_steps, mininterval=10)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _one_cycle(step / num_steps)
        # The fused attention's backward pass is half of a step on the CPU; the plain one takes a third off.
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
    def save_pretrained(self, folder: Path, *, safe_serialization: bool) -> object: ...


def write_weights(model: Savable, folder: Path) -> None:
    """As safetensors that everyone may read."""
    model.save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def forget(*names: str) -> None:
    """Drop the states of finished runs, so that the next run starts from scratch."""
    for name in names:
        (STATE_FOLDER / f"{name}.pt").unlink()


def _one_cycle(progress: float) -> float:
    """Linear warm-up, then a half cosine down to one hundredth."""
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
