"""The server that Atelier is compared with: diffusers' pipeline behind FastAPI, in one dedicated thread.

In a pool of threads the pipeline would be 2.3 × slower on the CPU, which would make the comparison unfair.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import uvicorn
from diffusers import StableDiffusionXLPipeline
from fastapi import FastAPI
from PIL.Image import Image
from pydantic import BaseModel

from zoo.tiny_sdxl import FOLDER


class GenerateRequest(BaseModel):
    """The fields of a generation that the baseline reads."""

    prompt: str
    seed: int
    size: str = "128x128"
    n: int = 1
    num_inference_steps: int = 20
    guidance_scale: float = 5.0


def load(num_threads: int) -> StableDiffusionXLPipeline:
    """Load tiny-sdxl into diffusers' pipeline, in float32; call this in the thread that will run the pipeline."""
    torch.set_num_threads(num_threads)
    pipeline = StableDiffusionXLPipeline.from_pretrained(FOLDER, dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionXLPipeline, requests: Sequence[GenerateRequest]) -> list[list[str]]:
    """Generate the images of requests that differ in prompt and seed only; returns their PNG files in base64."""
    first = requests[0]
    width, height = map(int, first.size.split("x"))
    seeds = [request.seed + i for request in requests for i in range(first.n)]
    images = pipeline(
        [request.prompt for request in requests],
        width=width,
        height=height,
        num_images_per_prompt=first.n,
        num_inference_steps=first.num_inference_steps,
        guidance_scale=first.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    ).images
    files = [_png(image) for image in images]
    return [files[start : start + first.n] for start in range(0, len(files), first.n)]


def _png(image: Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def build(num_threads: int) -> FastAPI:
    """Build the HTTP application; its pipeline is loaded and run in one dedicated thread."""
    thread = ThreadPoolExecutor(1)
    pipeline = thread.submit(load, num_threads).result()
    app = FastAPI()

    @app.post("/v1/images/generations")
    async def generate(request: GenerateRequest) -> dict[str, list[dict[str, str]]]:
        [images] = await asyncio.get_running_loop().run_in_executor(thread, draw, pipeline, [request])
        return {"data": [{"b64_json": image} for image in images]}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(build(options.threads), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
