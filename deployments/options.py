"""The typed arguments of the graph, as `args:` of a Serve config gives them. Imports no torch.

A change under `args:` restarts every replica. What may change while the graph runs is in `limits`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atelier.catalogue.selection import Selection
from atelier.core.control import TransportName
from atelier.core.params.delivery import ResponseFormat
from atelier.models.memory import MemoryLevel

NumThreads = Annotated[
    int, Field(ge=1, description="Number of OpenMP threads of one replica on the CPU; replicas share its cores.")
]


class Options(BaseModel):
    """Base of all options: unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReplicaOptions(Options):
    """Device and threads of a replica that runs models."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="Device that the replica's models run on.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Precision of weights and arithmetic. Half precision is slow on most CPUs."
    )
    num_threads: NumThreads = 1
    memory_gib: float | None = Field(
        None,
        gt=0,
        description="Memory for weights and activations of one replica, in GiB: of its GPU, or of the machine with "
        "`device: cpu`. Models that do not fit take turns. By default the replica's share of the GPU; without bound "
        "on the CPU.",
    )
    host_memory_gib: float = Field(
        0,
        ge=0,
        description="Memory of the machine for copies of weights, in GiB, from which a model comes back faster than "
        "from its files.",
    )
    memory_level: MemoryLevel = Field(
        "none",
        description="How much memory of the device is saved at the cost of time. From `balanced` on, text encoders "
        "and VAEs leave the device after each call. From `sequential` on, UNets are brought block by block. With "
        "`aggressive`, no block is brought ahead, and VAEs work through large images in tiles.",
    )


class TextEncoderOptions(ReplicaOptions):
    """Options of the TextEncoder."""

    max_cached_prompts: int = Field(
        2000, ge=1, description="Number of texts whose embeddings a replica caches, about 0.6 MB each for SDXL."
    )


class AnnotatorOptions(ReplicaOptions):
    """Options of the Annotator, which draws control maps."""

    num_threads: NumThreads = 2
    memory_level: Literal["none"] = Field("none", description="This deployment has no other level.")


class DenoiserOptions(ReplicaOptions):
    """Options of the Denoiser, which runs the UNet and, by default, ControlNets."""

    num_threads: NumThreads = 2
    cuda_graphs: bool = Field(
        False,
        description="Whether UNets run as CUDA graphs: fewer launches, and more memory. Not measured on a GPU yet.",
    )
    exact_width: int = Field(
        8,
        ge=1,
        description="Number of rows in every UNet call of `exact` requests; missing rows are padded with copies. "
        "Another value changes the exactness key.",
    )
    control_transports: tuple[TransportName, ...] = Field(
        ("in_process",),
        min_length=1,
        description="How ControlNets are reached, in this order; the next one takes over where one fails. With "
        "`in_process` every Denoiser keeps their weights. With `same_node` or `handle` ControlNet replicas keep "
        "them, and every step costs a hop.",
    )
    control_deadline_s: float = Field(
        2.0,
        gt=0,
        description="Seconds that a ControlNet replica has for a step before the next transport takes over.",
    )

    @model_validator(mode="after")
    def _graphs_need_a_gpu(self) -> DenoiserOptions:
        if self.cuda_graphs and (self.device != "cuda" or self.memory_level in ("sequential", "aggressive")):
            raise ValueError("cuda_graphs needs device: cuda, and a memory_level at which the whole UNet stays there")
        return self

    @property
    def has_remote_control(self) -> bool:
        """Whether a transport needs ControlNet replicas."""
        return any(name != "in_process" for name in self.control_transports)


class ControlNetOptions(ReplicaOptions):
    """Options of the ControlNet; it is in the graph only if `denoiser.control_transports` has a remote transport."""

    num_threads: NumThreads = 2
    memory_level: Literal["none"] = Field("none", description="This deployment has no other level.")


class AutoencoderOptions(ReplicaOptions):
    """Options of the Autoencoder, which encodes and decodes images."""


class UpscalerOptions(ReplicaOptions):
    """Options of the Upscaler."""

    num_threads: NumThreads = 2
    memory_level: Literal["none"] = Field("none", description="This deployment has no other level.")


class RouterOptions(Options):
    """Options of the Router."""

    default_response_format: ResponseFormat | None = Field(
        None,
        description="How OpenAI's routes return images to clients that send no response_format. By default b64_json, "
        "and url for the models dall-e-2 and dall-e-3. A stream always carries b64_json.",
    )


class GraphArgs(Selection):
    """All arguments of `graph.build`."""

    text_encoder: TextEncoderOptions = Field(TextEncoderOptions(), description="Options of the TextEncoder.")
    annotator: AnnotatorOptions = Field(AnnotatorOptions(), description="Options of the Annotator.")
    denoiser: DenoiserOptions = Field(DenoiserOptions(), description="Options of the Denoiser.")
    controlnet: ControlNetOptions = Field(ControlNetOptions(), description="Options of the ControlNet.")
    autoencoder: AutoencoderOptions = Field(AutoencoderOptions(), description="Options of the Autoencoder.")
    upscaler: UpscalerOptions = Field(UpscalerOptions(), description="Options of the Upscaler.")
    router: RouterOptions = Field(RouterOptions(), description="Options of the Router.")

    @model_validator(mode="after")
    def _residuals_have_the_same_bits_everywhere(self) -> GraphArgs:
        """Check that ControlNets and Denoisers have equal device, dtype and num_threads, and thus equal residuals.

        If a transport to ControlNets fails, another one may finish the image, which must not change its bits.
        """
        if self.denoiser.has_remote_control and self.denoiser.device == "cuda":
            raise ValueError(
                "denoiser.control_transports has more than in_process: residuals would travel through the host's "
                "memory, 54 MB a row of 1024x1024 in every step; with device: cuda, use in_process alone"
            )
        if self.denoiser.has_remote_control:
            theirs, ours = (options.model_dump() for options in (self.controlnet, self.denoiser))
            for name in ("device", "dtype", "num_threads"):
                if theirs[name] != ours[name]:
                    raise ValueError(f"controlnet.{name} is {theirs[name]}; it must be the denoiser's, {ours[name]}")
        return self
