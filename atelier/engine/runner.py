"""Runs the UNet of one model: admits requests and takes their steps.

In the engine, only this module, `request`, `step` and `control` compute on latents and activations. Latents stay in
float32 throughout.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.entries import ModelEntry
from atelier.control.transports import Transport, Wait
from atelier.core.conditioning import Conditioning, Role, TextEmbeds
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.errors import ModelUnavailable
from atelier.core.origin import Origin
from atelier.core.sampling import Sampling
from atelier.engine.batch import Batch
from atelier.engine.control import StepControl
from atelier.engine.initial import initial_latents
from atelier.engine.packing import Call, Packed
from atelier.engine.request import BatchKey, RunningRequest, Submitted
from atelier.engine.schedules import C_IN, TIMESTEP, Schedules
from atelier.engine.side_by_side import SideBySide
from atelier.engine.splits import Splits, fastest_splits
from atelier.engine.step import advance, guide, noise_of_step, numbers_of_step
from atelier.families.family import (
    Adapter,
    Conditions,
    Encoded,
    GraphedUNet,
    PromptConditions,
    TracedUNet,
    family_of,
)
from atelier.models.hashes import tensors_hash
from atelier.models.host import HostedModule
from atelier.models.loading import Placement, load_scheduler
from atelier.models.peak import peak_bytes
from atelier.models.streaming import StreamedModule
from atelier.models.transfer import uploaded

#: With guidance.
_ROWS_OF_ONE_IMAGE = 2
#: As many as the slots of a batch begin with.
_MEASURED_ROWS = 8

HostedUNet = HostedModule[UNet2DConditionModel] | StreamedModule[UNet2DConditionModel]
_EncodeHalf = Callable[[torch.Tensor, torch.Tensor, Conditions], Encoded]
_DecodeHalf = Callable[[Encoded, Conditions], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """What steps of an architecture take, measured on this machine."""

    #: Into how many calls steps are split.
    splits: Splits
    #: Memory that each row takes besides the weights, divided by the pixels of its image.
    row_bytes_per_pixel: float


@dataclass(frozen=True, slots=True)
class _Input:
    """What one UNet call reads."""

    #: [rows, 4, h, w] and [rows].
    model_input: torch.Tensor
    timesteps: torch.Tensor
    conditions: Conditions
    control: StepControl


class Runner:
    """The UNet of one model with its schedules.

    Made in any thread, and used in the engine's.
    """

    def __init__(
        self,
        entry: ModelEntry,
        placement: Placement,
        unet: HostedUNet,
        transport: Transport,
        side_by_side: SideBySide | None = None,
    ) -> None:
        """Load the entry's UNet, and derive from it what is kept while its weights are elsewhere.

        `side_by_side` has the threads that split calls run in; without it no call is split.

        Raises ModelUnavailable if the model cannot be loaded, or the engine does not support it or its scheduler.
        """
        self.family = family_of(entry.family)
        self._entry = entry
        self._placement = placement
        self._unet = unet
        self._transport = transport
        self._side_by_side = side_by_side
        #: Rows of a call, times the pixels of an image, for which memory has lasted so far.
        self._max_call_pixels = math.inf
        #: What steps take; None until it was measured.
        self.costs: StepCosts | None = None
        with unet.lease() as module:
            #: The UNet, whose weights are there only while it is leased.
            self.module = module
            self._num_channels: int = module.config.out_channels
            try:
                _check_channels(module, edits=entry.edits)
                self.family.install(module)
                scheduler = load_scheduler(entry)
                self._schedules = Schedules(scheduler.config)
            except ValueError as error:
                raise ModelUnavailable(f"Model {entry.id!r}: {error}.") from error
            self.weights_hash = tensors_hash(unet.named_tensors(), settings=scheduler.config)
            # A program reads all weights, so a UNet whose blocks come one by one is run by Python.
            if isinstance(unet, StreamedModule):
                self._programs: TracedUNet | GraphedUNet | None = None
            elif placement.uses_graphs:
                self._programs = self.family.graph(module, lambda: unet.num_arrivals)
            else:
                self._programs = self.family.trace(module, placement) if placement.device == "cpu" else None

    @property
    def architecture(self) -> str:
        """The UNet's architecture; models that share it take equally long for a step."""
        config = {name: value for name, value in self.module.config.items() if not name.startswith("_")}
        return json.dumps(config, sort_keys=True, default=str)

    def bring(self) -> None:
        """Bring the UNet to the device, where it stays until others need its place."""
        self._unet.bring()

    def unload(self) -> bool:
        """Take the UNet out of memory; return whether it is still there, because it is used."""
        return self._unet.unload()

    @property
    def row_bytes(self) -> float:
        """Number of bytes that a row of the default size takes besides the weights; 0 if there is no budget."""
        assert self.costs is not None
        return self.costs.row_bytes_per_pixel * self._entry.defaults.size.num_pixels

    @property
    def is_exclusive(self) -> bool:
        """Whether no other base model may be in memory with this one."""
        return self._entry.exclusive

    @property
    def num_bytes(self) -> int:
        """Number of bytes of the UNet."""
        return self._unet.num_bytes

    @property
    def bring_s(self) -> float:
        """Seconds until the UNet is on the device; 0 if it is there."""
        return self._unet.bring_s

    @torch.inference_mode()
    def begin(self, submitted: Submitted, place: str = "") -> RunningRequest:
        """Draw the initial noise of a request, or go on from its snapshot if that may be resumed at `place`.

        Raises the error of a LoRA that could not be loaded.
        """
        request, adapters = submitted.request, [adapter.result() for adapter in submitted.adapters]
        schedule = self._schedules.of(request.pass_.sampling)
        generators = tuple(torch.Generator("cpu").manual_seed(seed) for seed in request.pass_.seeds)
        latents, inpaint = initial_latents(request, schedule, generators, self._num_channels, self._placement.device)
        edited = None if request.image_latents is None else torch.tensor(request.image_latents)
        running = RunningRequest(
            submitted=submitted,
            schedule=schedule,
            num_rows=request.num_rows,
            num_chunks=request.num_chunks,
            generators=generators,
            latents=latents,
            inpaint=inpaint,
            image_latents=None if edited is None else uploaded(edited, self._placement.device),
            weights=self._weights(request, adapters),
            denoised_1=torch.zeros_like(latents),
            denoised_2=torch.zeros_like(latents),
        )
        snapshot, here = request.resume, Origin(place, running.weights)
        if snapshot is not None and snapshot.may_be_resumed(here, request.pass_.reproducibility):
            running.resume(snapshot)
        return running

    @torch.inference_mode()
    def prompts(self, running: RunningRequest) -> dict[Role, PromptConditions]:
        """Compute the conditions of a request's prompts, on the CPU each in a single thread.

        Raises ValueError if the conditioning does not have the model's widths.
        """
        submitted = running.submitted
        weights = [lora.weight for lora in submitted.request.pass_.loras]
        with self._unet.lease() as unet:
            layers = [
                (adapter.result().unet, weight) for adapter, weight in zip(submitted.adapters, weights, strict=True)
            ]
            changes = self.family.request_adapters(unet, layers)
            running.adapter_forms = self.family.forms(changes.of_rows)

            @torch.inference_mode()
            def conditions(embeds: TextEmbeds) -> PromptConditions:
                return self.family.prompt_conditions(unet, embeds, self._placement, changes)

            roles = submitted.request.embeds
            # An edit has the negative prompt in two roles.
            distinct = {id(embeds): embeds for embeds in roles.values()}
            calls = [partial(conditions, embeds) for embeds in distinct.values()]
            computed = [call() for call in calls] if self._side_by_side is None else self._side_by_side.map(calls)
        by_embeds = dict(zip(distinct, computed, strict=True))
        return {role: by_embeds[id(embeds)] for role, embeds in roles.items()}

    def new_batch(self, key: BatchKey, *, exact_width: int) -> Batch:
        """Return an empty batch for requests with this key, of a model that has been warmed up."""
        assert self.costs is not None
        max_call_rows = max(1, self._max_call_pixels / key.size.num_pixels)
        return Batch(key, self.family, exact_width=exact_width, splits=self.costs.splits, max_call_rows=max_call_rows)

    def halve_calls(self, batch: Batch) -> bool:
        """Let the calls of a batch, and of those after it, have half as many rows; return whether they can.

        Memory that the failed call has left is given back to the device first.
        """
        if self._placement.device != "cpu":
            torch.cuda.empty_cache()
        if not batch.halve_calls():
            return False
        self._max_call_pixels = batch.largest_call * batch.key.size.num_pixels
        return True

    @torch.inference_mode()
    def step(self, requests: Sequence[RunningRequest], packed: Packed) -> None:
        """Take the next step of every request, each at its own timestep. If it fails, no request has taken it.

        Raises ModelUnavailable if memory has no room for the activations of so many rows.
        """
        num_rows = sum(len(call.image) for call in packed.calls)
        num_pixels = requests[0].request.pass_.size.num_pixels
        num_bytes = 0 if self.costs is None else math.ceil(self.costs.row_bytes_per_pixel * num_rows * num_pixels)
        with self._unet.lease(), self._unet.beside(num_bytes):
            self._step(requests, packed)

    def _step(self, requests: Sequence[RunningRequest], packed: Packed) -> None:
        numbers, noise = numbers_of_step(requests), noise_of_step(requests)
        latents = torch.cat([request.latents for request in requests])
        noise_pred = self._predict(requests, packed, numbers[C_IN] * latents, numbers[TIMESTEP].flatten())
        states = advance(requests, numbers, latents, guide(noise_pred, packed), noise)
        for request, state in zip(requests, states, strict=True):
            request.commit(state)

    def _predict(
        self,
        requests: Sequence[RunningRequest],
        packed: Packed,
        model_input: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:
        """Run the UNet on `model_input` [images, 4, h, w] at `timesteps` [images].

        Returns `noise_pred` of the rows (one per image and prompt role) of all calls, [rows, 4, h, w].
        """
        inputs = [self._input(requests, call, model_input, timesteps, packed.width) for call in packed.calls]
        waits_for_control = any(of_call.control.calls for of_call in inputs) and not self._transport.is_concurrent
        with self._unet.lease() as unet:
            one_by_one = len(inputs) == 1 or waits_for_control or packed.width is not None
            if self._side_by_side is None or one_by_one:
                noise_preds = [self._started(unet, requests, of_call)() for of_call in inputs]
            else:
                noise_preds = self._side_by_side.map([self._started(unet, requests, of_call) for of_call in inputs])
        return torch.cat(noise_preds)

    def _input(
        self,
        requests: Sequence[RunningRequest],
        call: Call,
        model_input: torch.Tensor,
        timesteps: torch.Tensor,
        width: int | None,
    ) -> _Input:
        """Select a call's rows from `model_input` [images, 4, h, w] and `timesteps` [images]."""
        row_input, row_timesteps = model_input[call.image], timesteps[call.image]
        if call.image_latents is not None:
            row_input = torch.cat([row_input, call.image_latents], dim=1)
        row_input = row_input.to(self._placement.dtype)
        control = StepControl.of(requests, call, row_input, row_timesteps, width=width)
        return _Input(row_input, row_timesteps, call.conditions, control)

    def _started(
        self, unet: UNet2DConditionModel, requests: Sequence[RunningRequest], of_call: _Input
    ) -> Callable[[], torch.Tensor]:
        """Send a call's rows to their ControlNets, and return a function that runs the UNet on them."""
        control = of_call.control
        wait = self._transport.start(control.calls, control.contexts) if control.calls else None
        return partial(self._run, unet, requests, of_call, wait)

    @torch.inference_mode()
    def _run(
        self,
        unet: UNet2DConditionModel,
        requests: Sequence[RunningRequest],
        of_call: _Input,
        wait: Wait | None,
    ) -> torch.Tensor:
        """Run one call, and add the residuals of its ControlNets as soon as they are there."""
        control, conditions = of_call.control, of_call.conditions
        encode, decode = self._halves(unet)
        encoded = encode(of_call.model_input, of_call.timesteps, conditions)
        if wait is not None:
            control.add(wait(), encoded, requests)
        return decode(encoded, conditions).float()

    def _halves(self, unet: UNet2DConditionModel) -> tuple[_EncodeHalf, _DecodeHalf]:
        if self._programs is None:
            return partial(self.family.encode_half, unet), partial(self.family.decode_half, unet)
        return self._programs.encode_half, self._programs.decode_half

    def _weights(self, request: DenoiseRequest, adapters: Sequence[Adapter]) -> dict[str, str]:
        """Return the hashes of the UNet's weights and of the LoRAs', by name."""
        hashes = {f"{self._entry.id}/unet": self.weights_hash}
        for lora, adapter in zip(request.pass_.loras, adapters, strict=True):
            hashes[f"{lora.id}/unet"] = adapter.weights_hash
        return hashes

    def warm_up(self) -> StepCosts:
        """Take steps at the default size, as most requests have it, and return what they take."""
        new_batch = functools.cache(self._new_warm_up_batch)

        def step(num_rows: int, num_calls: int) -> None:
            batch = new_batch(num_rows, num_calls)
            self.step(batch.requests, batch.packed)

        for _ in range(2):
            step(_ROWS_OF_ONE_IMAGE, 1)
        splits = fastest_splits(step, 1 if self._side_by_side is None else torch.get_num_threads())
        return StepCosts(splits=splits, row_bytes_per_pixel=self._row_bytes_per_pixel())

    @torch.inference_mode()
    def make_graphs(self) -> None:
        """Make the CUDA graphs for the default size, if the UNet runs as graphs."""
        if isinstance(self._programs, GraphedUNet):
            size = self._entry.defaults.size
            with self._unet.lease() as unet:
                like = self.family.example_conditions(unet, self._placement)
                self._programs.prepare(size.latent_height, size.latent_width, like)

    def _row_bytes_per_pixel(self) -> float:
        """Measure the memory of a request and its steps by its rows; they take it in proportion to their pixels.

        Returns 0 where there is no budget.
        """
        if self._placement.memory.device_bytes == math.inf:
            return 0.0

        def step() -> None:
            batch = self._new_warm_up_batch(_MEASURED_ROWS, 1)
            self.step(batch.requests, batch.packed)

        num_bytes = peak_bytes(step, self._placement.device)
        return num_bytes / _MEASURED_ROWS / self._entry.defaults.size.num_pixels

    def _new_warm_up_batch(self, num_rows: int, num_calls: int) -> Batch:
        """Return a batch with one request of so many rows, split into so many calls.

        It is guided, but for models that edit, whose guided images have three rows.
        """
        positive, size, edits = self.family.zero_embeds(self.module), self._entry.defaults.size, self._entry.edits
        zeros = np.zeros((1, self._num_channels, size.latent_height, size.latent_width), np.float32)
        request = DenoiseRequest(
            request_id=RequestId("warm-up"),
            pass_=Pass(
                model=self._entry.id,
                size=size,
                seeds=tuple(range(num_rows if edits else num_rows // 2)),
                sampling=Sampling(num_inference_steps=20),
                guidance_scale=1.0 if edits else 5.0,
                image_guidance_scale=1.0 if edits else None,
            ),
            conditioning=Conditioning(positive=positive, negative=None),
            image_latents=zeros if edits else None,
        )
        submitted = Submitted(request, emit=lambda _: None)
        batch = Batch(submitted.key, self.family, exact_width=1, splits=Splits({num_rows: num_calls}))
        running = self.begin(submitted)
        batch.join(running, self.prompts(running))
        return batch


def _check_channels(unet: UNet2DConditionModel, *, edits: bool) -> None:
    """Raise ValueError if the UNet does not read the latents, and with them an image if it `edits`."""
    expected, found = (2 if edits else 1) * unet.config.out_channels, unet.config.in_channels
    if found != expected:
        kind = "a model that edits images reads" if edits else "a model without `edits` in the catalogue reads"
        raise ValueError(f"its UNet reads {found} channels; {kind} {expected}")
