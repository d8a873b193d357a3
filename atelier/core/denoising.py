"""Requests to the denoising engine, and the events it emits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

import numpy as np
import numpy.typing as npt

from atelier.core.adapters import Lora, in_order
from atelier.core.conditioning import Conditioning, Floats, Role, TextEmbeds
from atelier.core.control import Control
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.priority import Priority
from atelier.core.sampling import Reproducibility, Sampling
from atelier.core.snapshot import Snapshot

RequestId = NewType("RequestId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One run from noise, or from a noised image, to latents. A request with `hires` has two."""

    #: Id of the model in the catalogue.
    model: str
    #: Size of the images in pixels.
    size: Size
    #: One seed per image; image i matches that of diffusers with `torch.Generator("cpu").manual_seed(seeds[i])`.
    seeds: tuple[int, ...]
    sampling: Sampling
    guidance_scale: float
    #: Blend factor, 0 … 1: 0 keeps the guided prediction, 1 rescales it to the standard deviation of the positive
    #: prediction.
    guidance_rescale: float = 0.0
    #: How closely an edit by an instruction keeps to its image, from 1 (Brooks et al. 2023, s_I in eq. 3); None for
    #: models that do not edit so.
    image_guidance_scale: float | None = None
    #: The LoRAs that act, each once, in the order of `in_order`.
    loras: tuple[Lora, ...] = ()
    #: `exact` gives the same bits for an equal exactness key, whatever else is in the batch.
    reproducibility: Reproducibility = "fast"

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("a pass makes at least one image, so it needs at least one seed")
        if not self.size.is_whole_latents:
            raise ValueError(f"{self.size} is not a whole number of latents")
        if self.loras != in_order(self.loras) or len({lora.id for lora in self.loras}) < len(self.loras):
            raise ValueError(f"the LoRAs {self.loras} are not in their order, or one acts twice")

    @property
    def is_guided(self) -> bool:
        """Whether classifier-free guidance is on: guidance of 1 or less needs no negative rows."""
        return self.guidance_scale > 1

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of the prompts that the UNet reads for each image, in the order of their rows."""
        if not self.is_guided:
            return ("positive",)
        return ("negative", "positive") if self.image_guidance_scale is None else ("negative", "image", "positive")

    @property
    def pixel_steps(self) -> int:
        """The work of the pass: pixels per image × steps × images."""
        return self.size.num_pixels * self.sampling.num_taken_steps * len(self.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitImage:
    """The images that image-to-image and inpainting start from, as posteriors of the VAE."""

    #: Mean and standard deviation, each [1 or images, 4, height / 8, width / 8]; if 1, all images start from it.
    mean: Floats
    std: Floats
    #: Latent mask, [height / 8, width / 8]; 1 is painted anew, 0 is kept. None paints everything anew.
    mask: Floats | None = None

    def __post_init__(self) -> None:
        if self.mean.shape != self.std.shape or self.mean.ndim != 4:
            raise ValueError(
                f"mean {self.mean.shape} and std {self.std.shape} are not of one shape [images, 4, h, w]"
            )
        if self.mask is not None and self.mask.shape != self.mean.shape[2:]:
            raise ValueError(f"a mask of {self.mask.shape} does not fit latents of {self.mean.shape[2:]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseRequest:
    """Everything the engine needs to make the latents of one pass."""

    request_id: RequestId
    pass_: Pass
    conditioning: Conditioning
    init_image: InitImage | None = None
    #: The image to edit by an instruction, as the mean of the VAE's posterior without the scaling of latents,
    #: [1, 4, height / 8, width / 8].
    image_latents: Floats | None = None
    controls: tuple[Control, ...] = ()
    priority: Priority = "standard"
    #: Whether to emit a `StepEvent` after every step.
    report_steps: bool = False
    #: Number of evenly spaced steps whose event carries a preview.
    num_previews: int = 0
    #: Shortest time between two events with a snapshot, in seconds; None if none is wanted.
    snapshot_period_s: float | None = None
    #: Whether the replica that had the request before was lost.
    is_repeated: bool = False
    #: Where to go on from. A replica that cannot, starts from the first step.
    resume: Snapshot | None = None
    #: Seconds after its submission at which the engine ends the request, so that a lost Router leaves no work behind.
    time_limit_s: float | None = None
    #: Whether that is the client's own deadline.
    has_deadline: bool = False

    def __post_init__(self) -> None:
        size, num_images = self.pass_.size, len(self.pass_.seeds)
        if self.init_image is not None:
            images, _, *sides = self.init_image.mean.shape
            if images not in (1, num_images) or sides != [size.latent_height, size.latent_width]:
                raise ValueError(f"latents {self.init_image.mean.shape} do not fit {num_images} images of {size}")
        if (self.image_latents is None) != (self.pass_.image_guidance_scale is None):
            raise ValueError("an image is edited with an image guidance scale, and nothing else has one")
        if self.image_latents is not None:
            images, _, *sides = self.image_latents.shape
            if images != 1 or sides != [size.latent_height, size.latent_width]:
                raise ValueError(f"an image of {self.image_latents.shape} to edit does not fit images of {size}")
        for control in self.controls:
            if control.size != size:
                raise ValueError(f"a control image of {control.size} does not fit images of {size}")
        if self.resume is not None and self.resume.latents.shape[2:] != (size.latent_height, size.latent_width):
            raise ValueError(f"a snapshot of {self.resume.latents.shape} does not fit images of {size}")

    @property
    def embeds(self) -> dict[Role, TextEmbeds]:
        """The embeddings that the UNet reads for each image; one row per role."""
        return self.conditioning.by_role(self.pass_.roles)

    @property
    def num_rows(self) -> int:
        return len(self.pass_.seeds) * len(self.pass_.roles)

    @property
    def num_chunks(self) -> int:
        """Number of 77-token chunks of the longest prompt that the UNet reads."""
        positive, negative = self.conditioning.positive, self.conditioning.negative
        if negative is None or not self.pass_.is_guided:
            return positive.num_chunks
        return max(positive.num_chunks, negative.num_chunks)


@dataclass(frozen=True, slots=True)
class StepEvent:
    """Step `step` of `total` is done, counted from one."""

    step: int
    total: int
    #: The model's current prediction of x₀, [images, 4, height / 8, width / 8]; None if it is decoded on its own.
    preview: Floats | None = None
    snapshot: Snapshot | None = None

    @property
    def has_latents(self) -> bool:
        """Whether it carries latents, which were read from the device."""
        return self.preview is not None or self.snapshot is not None


@dataclass(frozen=True, slots=True)
class DecodedPreview:
    """The images that step `step` predicts, as soon as they are decoded: after the `StepEvent`, before `Denoised`.

    Events of later steps may come earlier. A preview that is not decoded when the last step is done is left out.
    """

    step: int
    #: RGB, [images, height, width, 3]; may be smaller than the images will be.
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent after `HEARTBEAT_S` seconds without another event: the process that denoises is still there."""


#: Longest time between two events of a stream, in seconds.
HEARTBEAT_S = 2.0


@dataclass(frozen=True, slots=True)
class Denoised:
    """The last event of a stream: the final latents."""

    #: The latents, [images, 4, height / 8, width / 8].
    latents: Floats
    origin: Origin
    #: Seconds that the request waited for room in the batch.
    queue_s: float


#: An event of a stream.
DenoiseEvent = StepEvent | DecodedPreview | Heartbeat | Denoised
