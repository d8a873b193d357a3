"""The UNet of one model: brings a request's conditions to the device and predicts for packed rows.

With `step` the only part of the engine that runs tensors; latents stay in float32 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.entries import ModelEntry
from atelier.control.transports import InOrder, Transport
from atelier.core.conditioning import TOKENS_PER_CHUNK, Conditioning, TextEmbeds
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.errors import ModelUnavailable
from atelier.core.geometry import PIXELS_PER_LATENT
from atelier.core.sampling import Sampling
from atelier.engine.control import StepControl, contexts_of
from atelier.engine.packing import Packed, pack
from atelier.engine.request import ActiveRequest, Arrival, Kept
from atelier.engine.schedules import ALPHA, C_IN, SIGMA, TIMESTEP, Schedule, Schedules
from atelier.engine.step import advance, guide, numbers_of_step
from atelier.families.sdxl import attention
from atelier.families.sdxl.conditions import PromptConditions
from atelier.families.sdxl.unet import decode_half, encode_half
from atelier.models.hashes import weights_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement, load_scheduler, load_unet

_NO_CONTROLNETS = InOrder({})


def load_runners(
    entries: Sequence[ModelEntry], placement: Placement, transport: Transport = _NO_CONTROLNETS
) -> dict[str, Runner]:
    """A warm runner for every model, their UNets in one host, ControlNets behind `transport`.

    Convolutions read channels last faster: 3–6 % of a UNet call on the CPU. Raises ModelUnavailable.
    """
    unets = {entry.id: load_unet(entry, placement).to(memory_format=torch.channels_last) for entry in entries}
    host = ModelHost(unets)
    return {entry.id: Runner(entry, placement, host, transport) for entry in entries}


class Runner:
    """Not thread-safe: made and used in the engine's thread."""

    def __init__(
        self, entry: ModelEntry, placement: Placement, host: ModelHost[UNet2DConditionModel], transport: Transport
    ) -> None:
        """Raises ModelUnavailable if the UNet or the scheduler is not of a kind the engine runs."""
        self._entry = entry
        self._placement = placement
        self._host = host
        self._transport = transport
        with host.acquire(entry.id) as unet:
            self._num_channels: int = unet.config.in_channels
            self._text_width: int = unet.config.cross_attention_dim
            self._pooled_width: int = (
                unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
            )
            try:
                attention.install(unet)
                scheduler = load_scheduler(entry)
                self._schedules = Schedules(scheduler.config)
            except ValueError as error:
                raise ModelUnavailable(f"Model {entry.id!r}: {error}.") from error
            self._weights_hash = weights_hash(unet, settings=scheduler.config)
        self._warm_up()

    @torch.inference_mode()
    def admit(self, arrival: Arrival) -> ActiveRequest:
        """Draw the request's first noise and bring its conditioning to the device.

        Raises ValueError if the conditioning is not of the model's widths.
        """
        request = arrival.request
        schedule = self._schedules.of(request.sampling)
        generators = tuple(torch.Generator("cpu").manual_seed(seed) for seed in request.seeds)
        latents, kept = self._start(request, schedule, generators)
        return ActiveRequest(
            arrival=arrival,
            schedule=schedule,
            prompts=tuple(self._conditions(text) for text in _texts(request)),
            generators=generators,
            latents=latents,
            kept=kept,
            control_contexts=contexts_of(request.controls, _texts(request)),
            weights={f"{request.model}/unet": self._weights_hash},
            denoised_1=torch.zeros_like(latents),
            denoised_2=torch.zeros_like(latents),
        )

    def _start(
        self, request: DenoiseRequest, schedule: Schedule, generators: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, Kept | None]:
        """The latents before the first step, every random number drawn in the order of the diffusers pipeline.

        Image-to-image draws the VAE's posterior, then the noise; inpainting the posterior once more, of the masked
        picture, which only matters to the numbers that samplers draw later.
        """
        shape = (1, self._num_channels, request.height // PIXELS_PER_LATENT, request.width // PIXELS_PER_LATENT)
        device, image = self._placement.device, request.initial_image
        if image is None:
            return _draw(shape, generators).to(device) * schedule.init_noise_sigma, None
        x0 = (torch.tensor(image.mean) + torch.tensor(image.std) * _draw(shape, generators)).to(device)
        noise = _draw(shape, generators).to(device)
        alpha, sigma = schedule.steps[0, [ALPHA, SIGMA]].tolist()
        latents = alpha * x0 + sigma * noise
        if image.mask is None:
            return latents, None
        _draw(shape, generators)
        if request.sampling.strength == 1:
            latents = noise * schedule.init_noise_sigma
        return latents, Kept(x0=x0, noise=noise, mask=torch.tensor(image.mask, device=device))

    @torch.inference_mode()
    def step(self, requests: Sequence[ActiveRequest], packed: Packed) -> None:
        """The next step of every request, each at its own."""
        numbers = numbers_of_step(requests)
        latents = torch.cat([request.latents for request in requests])
        model_output = self._unet(requests, packed, numbers[C_IN] * latents, numbers[TIMESTEP].flatten())
        advance(requests, numbers, latents, guide(model_output, packed))

    def _unet(
        self,
        requests: Sequence[ActiveRequest],
        packed: Packed,
        model_input: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:
        """From [images, 4, h, w] at [images] to what it predicts for the rows of all calls, [rows, 4, h, w]."""
        predicted = []
        with self._host.acquire(self._entry.id) as unet:
            for call in packed.calls:
                rows, of_rows = model_input[call.image].to(self._placement.dtype), timesteps[call.image]
                control = StepControl.of(requests, call, rows, of_rows, width=packed.width)
                wait = self._transport.start(control.calls, control.contexts) if control.calls else None
                encoded = encode_half(unet, rows, of_rows, call.conditions)
                if wait is not None:
                    control.add(wait(), encoded, requests)
                predicted.append(decode_half(unet, encoded, call.conditions).float())
        return torch.cat(predicted)

    def _conditions(self, text: TextEmbeds) -> PromptConditions:
        text_width = text.prompt_embeds.shape[1]
        if (text_width, *text.pooled_prompt_embeds.shape) != (self._text_width, self._pooled_width):
            raise ValueError(
                f"prompt_embeds {text.prompt_embeds.shape} and pooled {text.pooled_prompt_embeds.shape} "
                f"do not fit a UNet of {self._text_width} and {self._pooled_width}"
            )
        with self._host.acquire(self._entry.id) as unet:
            return attention.prompt_conditions(unet, text, self._placement)

    def _warm_up(self) -> None:
        """Two steps at the default size, with guidance: the shapes most requests have."""
        size = self._entry.defaults.size
        empty = TextEmbeds(
            prompt_embeds=np.zeros((TOKENS_PER_CHUNK, self._text_width), dtype=np.float32),
            pooled_prompt_embeds=np.zeros(self._pooled_width, dtype=np.float32),
        )
        request = DenoiseRequest(
            request_id=RequestId("warm-up"),
            model=self._entry.id,
            height=size.height,
            width=size.width,
            seeds=(0,),
            sampling=Sampling(num_inference_steps=2),
            guidance_scale=5.0,
            conditioning=Conditioning(positive=empty, negative=None),
        )
        active = [self.admit(Arrival(request, emit=lambda _: None))]
        packed = pack(active, width=None)
        for _ in range(2):
            self.step(active, packed)


def _draw(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Standard noise [images, …], image by image on the CPU as diffusers draws it."""
    return torch.cat([torch.randn(shape, generator=generator) for generator in generators])


def _texts(request: DenoiseRequest) -> list[TextEmbeds]:
    """With guidance the unconditional one first; zeros where there is no negative prompt, as SDXL was trained."""
    positive, negative = request.conditioning.positive, request.conditioning.negative
    if not request.is_guided:
        return [positive]
    if negative is None:
        negative = TextEmbeds(
            prompt_embeds=np.zeros_like(positive.prompt_embeds),
            pooled_prompt_embeds=np.zeros_like(positive.pooled_prompt_embeds),
        )
    return [negative, positive]
