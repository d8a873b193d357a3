"""The limits of each deployment, as `user_config` of a Serve config gives them. Imports no torch.

Serve passes a changed `user_config` to the running replicas, which go on with their requests. What is left out has
its default.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TypeVar

from pydantic import Field, ValidationError

from atelier.pipeline.pipeline import PipelineLimits
from deployments.options import Options
from deployments.stages import CallLimits

logger = logging.getLogger(__name__)


class ReplicaLimits(Options):
    """Limits of a replica that runs models."""

    stall_s: float = Field(
        120.0,
        gt=0,
        description="Seconds after which Serve replaces a replica whose model call or step has not ended.",
    )


class DenoiserLimits(ReplicaLimits):
    """Limits of the Denoiser."""

    max_waiting: int = Field(
        256,
        ge=1,
        le=300,
        description="Number of requests of each priority that may wait in a replica; others are rejected with status "
        "429.",
    )
    max_rows: int = Field(
        32,
        ge=20,
        description="Number of rows that a replica denoises at the same time; an image has one row, or two with "
        "guidance. Rows of images above the model's default size, with long prompts or with LoRAs count more.",
    )


class CallingLimits(Options):
    """Limits of a replica that calls the others."""

    stage_deadline_s: float = Field(
        90,
        gt=0,
        description="Seconds in which a deployment must answer a call, or a Denoiser begin to, with the wait for a "
        "replica. After that the call goes to another replica.",
    )
    stream_gap_s: float = Field(
        10,
        gt=2,
        description="Longest silence of a Denoiser that has begun, in seconds; it sends a sign of life every 2 s. "
        "After that the request goes to another replica.",
    )

    max_cache_bytes: int = Field(
        2_000_000_000,
        ge=0,
        description="Size of all images in the cache of results, in bytes; 0 switches it off. Give the Router and "
        "the Worker the same.",
    )

    @property
    def of_calls(self) -> CallLimits:
        return CallLimits(stage_deadline_s=self.stage_deadline_s, stream_gap_s=self.stream_gap_s)


class RouterLimits(CallingLimits):
    """Limits of the Router."""

    max_pixel_steps: int = Field(
        40_000_000, ge=1, description="Largest work of a request: pixels × steps × images, over all of its passes."
    )
    max_wait_s: float = Field(
        60,
        gt=0,
        description="Longest time that a generation may have to wait, as predicted from the work in progress. "
        "Others are answered with 429 and a Retry-After.",
    )
    max_body_bytes: int = Field(30_000_000, ge=1, description="Largest body of an HTTP request, in bytes.")
    default_deadline_s: float = Field(
        300, gt=0, description="Seconds in which a request without a deadline_s must be finished; 504 after that."
    )

    @property
    def of_pipeline(self) -> PipelineLimits:
        return PipelineLimits(
            max_pixel_steps=self.max_pixel_steps,
            max_wait_s=self.max_wait_s,
            default_deadline_s=self.default_deadline_s,
        )


class WorkerLimits(CallingLimits):
    """Limits of the Worker."""

    max_running: int = Field(16, ge=1, description="Number of jobs that a replica works on at a time.")
    default_deadline_s: float = Field(
        3600, gt=0, description="Seconds in which an attempt at a job must be finished; it fails after that."
    )

    @property
    def of_pipeline(self) -> PipelineLimits:
        """Limits without those that the Router has checked when the job was handed in."""
        return PipelineLimits(max_pixel_steps=sys.maxsize, default_deadline_s=self.default_deadline_s)


#: The limits of each deployment.
LIMITS: Mapping[str, type[Options]] = {
    "Router": RouterLimits,
    "Worker": WorkerLimits,
    "Denoiser": DenoiserLimits,
    **dict.fromkeys(("TextEncoder", "Annotator", "ControlNet", "Autoencoder", "Upscaler"), ReplicaLimits),
}

L = TypeVar("L", bound=Options)


def changed(limits: L, user_config: object) -> L:
    """Return the limits in a deployment's `user_config`.

    A mistake in it is logged, and the limits stay as they are: Serve would replace replicas that cannot take theirs.
    """
    try:
        return type(limits).model_validate(user_config)
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, one['loc']))} = {one['input']!r}: {one['msg']}" for one in error.errors()
        )
        logger.error("user_config is wrong and was not applied: %s", mistakes)
        return limits
