"""Convert a published Real-ESRGAN file to safetensors.

`python -m atelier.models.convert_upscaler IN.pth OUT.safetensors`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from atelier.models.esrgan import network_from


def convert(source: Path, target: Path) -> None:
    """Write the weights of a .pth file as safetensors, without executing anything in it.

    Raises:
        ValueError: the file holds neither RRDBNet nor SRVGGNetCompact.
        pickle.UnpicklingError: the file holds something other than tensors.
    """
    content = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds a {type(content).__name__}, not a dictionary of weights")
    weights: dict[str, torch.Tensor] = content.get("params_ema") or content.get("params") or content
    network_from(weights)
    save_file({key: weight.contiguous() for key, weight in weights.items()}, target)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m atelier.models.convert_upscaler", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN.pth")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
