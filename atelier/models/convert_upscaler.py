"""Convert a published Real-ESRGAN file to safetensors, once on every machine that runs Upscalers.

`python -m atelier.models.convert_upscaler IN.pth OUT.safetensors`, where IN.pth is a file or a URL. Nothing
is done if OUT.safetensors exists.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from atelier.models.esrgan import network_from


def convert(source: Path, target: Path) -> None:
    """Write the weights of a .pth file as safetensors, without executing anything in it.

    The target appears whole or not at all, also if several processes convert it at once.

    Raises:
        ValueError: the file holds neither RRDBNet nor SRVGGNetCompact.
        pickle.UnpicklingError: the file holds something other than tensors.
    """
    content = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds a {type(content).__name__}, not a dictionary of weights")
    weights: dict[str, torch.Tensor] = content.get("params_ema") or content.get("params") or content
    network_from(weights)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = Path(folder) / target.name
        save_file({key: weight.contiguous() for key, weight in weights.items()}, file)
        os.replace(file, target)


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """Yield the path of a file; one behind a URL is downloaded for as long as the context is open.

    Raises URLError or OSError if it cannot be downloaded.
    """
    if "://" not in source:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        file, _ = urllib.request.urlretrieve(source, Path(folder) / "published.pth")
        yield Path(file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m atelier.models.convert_upscaler", description=__doc__)
    parser.add_argument("source", metavar="IN.pth")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors")
    arguments = parser.parse_args()
    if arguments.target.is_file():
        return
    with local_copy(arguments.source) as file:
        convert(file, arguments.target)


if __name__ == "__main__":
    main()
