"""The UNet of one model: makes a request's rows and predicts their noise.

The only part of the engine that knows devices and precisions; latents stay in float32 throughout.
"""

from __future__ import annotations

import numpy as np
import torch

from atelier.catalogue.entries import PIXELS_PER_LATENT, ModelEntry
from atelier.core.conditioning import Conditioning, Floats, TextEmbeds
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.engine.request import ActiveRequest, Arrival
from atelier.engine.samplers import Euler, scale_model_input
from atelier.models.loading import Placement, load_scheduler, load_unet


class Runner:
    """Not thread-safe: made and used in the engine's thread."""

    def __init__(self, entry: ModelEntry, placement: Placement) -> None:
        self._entry = entry
        self._placement = placement
        self._unet = load_unet(entry, placement)
        self._euler = Euler(load_scheduler(entry))
        self._warm_up()

    def admit(self, arrival: Arrival) -> ActiveRequest:
        """Draw the request's noise and bring its conditioning to the device."""
        request = arrival.request
        schedule = self._euler.schedule(request.num_inference_steps)
        embeds = [row for row in self._embeds_of_rows(request) for _ in request.seeds]
        return ActiveRequest(
            arrival=arrival,
            schedule=schedule,
            latents=self._noise(request).to(self._placement.device) * schedule.init_noise_sigma,
            prompt_embeds=self._padded([row.prompt_embeds for row in embeds]),
            prompt_mask=self._padded([np.ones(len(row.prompt_embeds), dtype=np.float32) for row in embeds]),
            pooled_prompt_embeds=self._padded([row.pooled_prompt_embeds for row in embeds]),
        )

    @torch.inference_mode()
    def unet(self, active: ActiveRequest) -> torch.Tensor:
        """The predicted noise of all rows, [rows, 4, h, w] in float32."""
        request = active.arrival.request
        rows = scale_model_input(active.latents, active.step)
        if request.is_guided:
            rows = torch.cat([rows, rows])
        time_ids = torch.tensor(
            [[request.height, request.width, 0, 0, request.height, request.width]],
            device=self._placement.device,
            dtype=self._placement.dtype,
        )
        noise_pred: torch.Tensor = self._unet(
            rows.to(self._placement.dtype),
            torch.tensor(active.step.timestep, device=self._placement.device),
            encoder_hidden_states=active.prompt_embeds,
            encoder_attention_mask=active.prompt_mask,
            added_cond_kwargs={
                "text_embeds": active.pooled_prompt_embeds,
                "time_ids": time_ids.expand(len(rows), -1),
            },
            return_dict=False,
        )[0]
        return noise_pred.float()

    def _noise(self, request: DenoiseRequest) -> torch.Tensor:
        """Standard noise [images, 4, h, w], drawn image by image as diffusers draws it."""
        channels: int = self._unet.config.in_channels
        shape = (1, channels, request.height // PIXELS_PER_LATENT, request.width // PIXELS_PER_LATENT)
        return torch.cat(
            [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in request.seeds]
        )

    def _embeds_of_rows(self, request: DenoiseRequest) -> list[TextEmbeds]:
        positive, negative = request.conditioning.positive, request.conditioning.negative
        if not request.is_guided:
            return [positive]
        if negative is None:
            negative = TextEmbeds(
                prompt_embeds=np.zeros_like(positive.prompt_embeds),
                pooled_prompt_embeds=np.zeros_like(positive.pooled_prompt_embeds),
            )
        return [negative, positive]

    def _padded(self, rows: list[Floats]) -> torch.Tensor:
        """Arrays of several lengths as one tensor [rows, longest, …] on the device, with zeros at their ends."""
        tensors = [torch.from_numpy(row.copy()) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        return padded.to(self._placement.device, self._placement.dtype)

    def _warm_up(self) -> None:
        """Two steps at the default size, with guidance: the shapes most requests have."""
        config, size = self._unet.config, self._entry.defaults.size
        text_width: int = config.cross_attention_dim
        pooled_width: int = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        request = DenoiseRequest(
            request_id=RequestId("warm-up"),
            model=self._entry.id,
            height=size.height,
            width=size.width,
            seeds=(0,),
            num_inference_steps=2,
            guidance_scale=5.0,
            conditioning=Conditioning(
                positive=TextEmbeds(
                    prompt_embeds=np.zeros((77, text_width), dtype=np.float32),
                    pooled_prompt_embeds=np.zeros(pooled_width, dtype=np.float32),
                ),
                negative=None,
            ),
        )
        active = self.admit(Arrival(request, emit=lambda _: None))
        for _ in active.schedule.steps:
            self.unet(active)


def guide(noise_pred: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, with scale = 1 + w); unconditional rows first."""
    noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
    return noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
