"""The engine at SDXL's real size on a GPU, against diffusers; at the zoo's size it runs anywhere.

`python -m benchmarks.sdxl_gpu` makes a model of SDXL base 1.0's architecture with random weights, and prints

- how far latents are from those of diffusers' pipeline in float32, and whether `exact` ones keep their bits;
- the time of a step by the number of rows and the size of images, the share of the device's matmul rate that it
  reaches, and the same of bare UNet calls of diffusers, plain and by `torch.compile`;
- the time of one image of 30 steps, and images a second of 20 steps, against diffusers' pipeline;
- steps with LoRAs, with one ControlNet and with three, and the time to join and leave a batch;
- the VAE, and the largest amount of memory by the number of rows.

`--zoo` takes the zoo's model instead. On a device without CUDA what belongs to it is left out.
"""

from __future__ import annotations

import argparse

import torch

from atelier.models.loading import Placement
from benchmarks.results import record
from benchmarks.sdxl_images import correctness, images, vae
from benchmarks.sdxl_setup import Numbers, Setup, real_setup, zoo_setup
from benchmarks.sdxl_steps import joining, memory, steps, steps_with_controls, steps_with_loras


def measure(setup: Setup) -> Numbers:
    """Measure everything, what is correct first."""
    numbers: Numbers = {"dtype": setup.placement.dtype_name}
    for part in (correctness, steps, steps_with_loras, steps_with_controls, joining, images, vae, memory):
        numbers |= part(setup)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdxl_gpu", description=__doc__)
    parser.add_argument("--zoo", action="store_true", help="the zoo's model on the CPU")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--graphs", action="store_true", help="run the engine's UNet as CUDA graphs")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    options = parser.parse_args()
    if options.zoo:
        record("sdxl_zoo", measure(zoo_setup()))
        return
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; --zoo runs anywhere")
    placement = Placement("cuda", options.dtype, uses_graphs=options.graphs)
    with real_setup(placement, is_compiled=not options.no_compile) as setup:
        name = f"sdxl_gpu_{options.dtype}{'_graphs' if options.graphs else ''}"
        record(name, {"device": torch.cuda.get_device_name(), **measure(setup)})


if __name__ == "__main__":
    main()
