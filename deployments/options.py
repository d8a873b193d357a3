"""The typed arguments of the graph, as `args:` in serve_config.yaml gives them. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atelier.catalogue.catalogue import DEFAULT_CATALOGUE
from atelier.core.control import TransportName


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReplicaOptions(Options):
    """How a replica that holds a model runs it."""

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    #: OpenMP threads of one replica on the CPU; replicas that share cores should not ask for all of them.
    num_threads: int = Field(1, ge=1)
    #: A model call or step that takes longer is a hang: the health check fails and Serve replaces the replica.
    stall_s: float = Field(120.0, gt=0)


class TextEncoderOptions(ReplicaOptions):
    max_cached_prompts: int = Field(2000, ge=1)


class DenoiserOptions(ReplicaOptions):
    num_threads: int = Field(2, ge=1)
    #: Requests a replica holds before it answers that it is full.
    max_waiting: int = Field(64, ge=1)
    #: Rows that share a UNet call; an image with guidance has two. The widest request has 20.
    max_rows: int = Field(32, ge=20)
    #: Rows of every UNet call of `exact` requests, filled up with copies.
    exact_width: int = Field(8, ge=1)
    #: How ControlNets are reached, in this order: the next stands in where one fails. With `in_process` every
    #: Denoiser keeps their weights; with the others the ControlNet replicas do, and every step costs a hop.
    control_transports: tuple[TransportName, ...] = Field(("in_process",), min_length=1)
    #: A ControlNet replica that takes longer for a step is given up.
    control_deadline_s: float = Field(2.0, gt=0)

    @property
    def has_remote_control(self) -> bool:
        return any(name != "in_process" for name in self.control_transports)


class ControlNetOptions(ReplicaOptions):
    num_threads: int = Field(2, ge=1)


class AutoencoderOptions(ReplicaOptions):
    pass


class UpscalerOptions(ReplicaOptions):
    num_threads: int = Field(2, ge=1)


class RouterOptions(Options):
    #: Refuse a request whose pixels × steps × images exceed this.
    max_pixel_steps: int = Field(40_000_000, ge=1)
    max_body_bytes: int = Field(30_000_000, ge=1)


class GraphArgs(Options):
    """Everything that `graph.build` can be told."""

    catalogue: Path = DEFAULT_CATALOGUE
    #: Ids from the catalogue; the first is the one a request gets that names none.
    models: tuple[str, ...] = Field(("tiny-sdxl",), min_length=1)
    #: Absent: those of the models that need no download.
    controlnets: tuple[str, ...] | None = None
    #: Models that draw control maps; of several of a kind the first is taken.
    annotators: tuple[str, ...] = ("tiny-depth-anything",)
    upscalers: tuple[str, ...] = ("tiny-x4",)
    text_encoder: TextEncoderOptions = TextEncoderOptions()
    denoiser: DenoiserOptions = DenoiserOptions()
    controlnet: ControlNetOptions = ControlNetOptions()
    autoencoder: AutoencoderOptions = AutoencoderOptions()
    upscaler: UpscalerOptions = UpscalerOptions()
    router: RouterOptions = RouterOptions()

    @model_validator(mode="after")
    def _residuals_have_the_same_bits_everywhere(self) -> GraphArgs:
        """A picture may go on elsewhere when a ControlNet replica is lost: that must not be seen in it."""
        if self.denoiser.has_remote_control:
            for name in ("device", "dtype", "num_threads"):
                ours, theirs = getattr(self.controlnet, name), getattr(self.denoiser, name)
                if ours != theirs:
                    raise ValueError(f"controlnet.{name} is {ours}; it must be the denoiser's, {theirs}")
        return self
