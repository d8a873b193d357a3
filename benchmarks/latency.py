"""Latency of one image over HTTP, compared with StableDiffusionXLPipeline in this process.

`python -m benchmarks.latency` starts the graph, generates images of equal seeds by both in turn, and prints the
ratio of the median times. The pipeline runs in the main thread with as many threads as the Denoiser.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import statistics
import time

import httpx2
import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from benchmarks.graph import running_graph
from benchmarks.results import record
from zoo.tiny_sdxl import FOLDER

_PROMPT = "a large red circle on the left, white background"
_WARM_UP_ROUNDS = 3


def over_http(client: httpx2.Client, seed: int) -> Image.Image:
    """Generate an image with this seed through the HTTP API, and decode it."""
    answer = client.post("/v1/images/generations", json={"prompt": _PROMPT, "seed": seed}).raise_for_status()
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))


def in_process(pipeline: StableDiffusionXLPipeline, seed: int) -> Image.Image:
    """Generate an image with this seed by calling diffusers' pipeline in this process."""
    image: Image.Image = pipeline(
        _PROMPT, num_inference_steps=20, guidance_scale=5.0, generator=torch.Generator("cpu").manual_seed(seed)
    ).images[0]
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    num_threads = os.cpu_count() or 1
    torch.set_num_threads(num_threads)
    pipeline = StableDiffusionXLPipeline.from_pretrained(FOLDER, dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    http_s, in_process_s, worst_difference = [], [], 0
    with (
        running_graph(num_threads=num_threads) as address,
        httpx2.Client(base_url=address, timeout=60) as client,
    ):
        for seed in range(-_WARM_UP_ROUNDS, options.rounds):
            start = time.perf_counter()
            ours = over_http(client, seed + _WARM_UP_ROUNDS)
            middle = time.perf_counter()
            theirs = in_process(pipeline, seed + _WARM_UP_ROUNDS)
            end = time.perf_counter()
            difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
            worst_difference = max(worst_difference, int(np.abs(difference).max()))
            if seed >= 0:
                http_s.append(middle - start)
                in_process_s.append(end - middle)
    ratio = statistics.median(http_s) / statistics.median(in_process_s)
    record(
        "latency",
        {
            "rounds": options.rounds,
            "http_median_ms": round(1000 * statistics.median(http_s), 1),
            "in_process_median_ms": round(1000 * statistics.median(in_process_s), 1),
            "ratio": round(ratio, 3),
            "worst_pixel_difference": worst_difference,
        },
    )


if __name__ == "__main__":
    main()
