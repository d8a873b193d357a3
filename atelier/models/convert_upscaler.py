"""`python -m atelier.models.convert_upscaler IN.pth OUT.safetensors`: Real-ESRGAN's files, made safe to load."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from atelier.models.esrgan import network_of


def convert(source: Path, target: Path) -> None:
    """Raises ValueError if the file holds neither RRDBNet nor SRVGGNetCompact. Nothing in it is executed."""
    content = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds a {type(content).__name__}, not weights by their names")
    weights: dict[str, torch.Tensor] = content.get("params_ema") or content.get("params") or content
    network_of(weights)
    save_file({key: weight.contiguous() for key, weight in weights.items()}, target)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m atelier.models.convert_upscaler", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN.pth")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
