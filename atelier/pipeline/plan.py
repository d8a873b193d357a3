"""From a client's parameters to a plan with nothing left open; pure, before any model sees the request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import PIXELS_PER_LATENT, ModelEntry, Size
from atelier.core.conditioning import Text
from atelier.core.control import Annotation, ControlKind
from atelier.core.errors import InvalidParameter, NotSupported, TooMuchWork
from atelier.core.params import MAX_SEED, ControlParams, GenerateParams, HiresStep, OutputFormat, Quality
from atelier.core.sampling import SAMPLERS, Reproducibility, Sampling
from atelier.pipeline.inputs import Inputs
from atelier.pipeline.upscaling import PlannedUpscale, plan_upscale

#: Fields of a request by their names on the wire, without its pictures.
Parameters = dict[str, str | int | float | dict[str, str | float] | list[dict[str, str | float | bool]]]

ResolvedQuality = Literal["low", "medium", "high", "xhigh", "max"]

#: What is none of them is medium.
_QUALITIES: dict[Quality, ResolvedQuality] = {
    "low": "low",
    "high": "high",
    "hd": "high",
    "xhigh": "xhigh",
    "max": "max",
}
#: Times the model's default.
_STEPS_OF_QUALITY: dict[ResolvedQuality, float] = {"low": 0.5, "medium": 1, "high": 1.5, "xhigh": 2, "max": 3}
_GUIDANCE_OF_STYLE = {"vivid": 1.4, "natural": 0.7}
#: Of image-to-image, where the client says nothing.
_STRENGTH = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedControl:
    controlnet: str
    #: How to draw the map; None if the client sent it.
    annotation: Annotation | None
    scale: float
    start: float
    end: float
    guess_mode: bool

    def parameters(self) -> dict[str, str | float | bool]:
        """Its fields by their names on the wire, without the picture."""
        fields: dict[str, str | float | bool] = {
            "model": self.controlnet,
            "scale": self.scale,
            "start": self.start,
            "end": self.end,
            "guess_mode": self.guess_mode,
            "annotate": self.annotation is not None,
        }
        if self.annotation is not None and self.annotation.kind == "canny":
            fields["low_threshold"] = self.annotation.low_threshold
            fields["high_threshold"] = self.annotation.high_threshold
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedHires:
    """The second pass."""

    upscaler: str | None
    scale: float
    size: Size
    sampling: Sampling

    def parameters(self) -> dict[str, str | float]:
        """Its fields by their names on the wire."""
        model: dict[str, str | float] = {} if self.upscaler is None else {"model": self.upscaler}
        sampling = self.sampling
        return {
            "scale": self.scale,
            "strength": sampling.strength,
            "steps": sampling.num_inference_steps,
            **model,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request with every default filled in."""

    model: str
    size: Size
    seeds: tuple[int, ...]
    sampling: Sampling
    starts_from_picture: bool
    guidance_scale: float
    guidance_rescale: float
    reproducibility: Reproducibility
    positive: Text
    #: None: no negative prompt anywhere.
    negative: Text | None
    controls: tuple[PlannedControl, ...]
    hires: PlannedHires | None
    upscale: PlannedUpscale | None
    quality: ResolvedQuality
    output_format: OutputFormat
    output_compression: int | None
    deadline_s: float | None

    @property
    def picture_size(self) -> Size:
        """Of the file."""
        if self.upscale is not None:
            return self.upscale.size
        return self.size if self.hires is None else self.hires.size

    @property
    def pixel_steps(self) -> int:
        """The work the request asks for: pixels × steps × images."""
        passes = [(self.size, self.sampling)]
        if self.hires is not None:
            passes.append((self.hires.size, self.hires.sampling))
        pixel_steps = sum(size.width * size.height * sampling.num_taken_steps for size, sampling in passes)
        return pixel_steps * len(self.seeds)

    def parameters(self, seed: int) -> Parameters:
        """The fields that make one of the pictures again, by their names on the wire."""
        fields: dict[str, str | int | float | dict[str, str | float] | list[dict[str, str | float | bool]] | None] = {
            "prompt": self.positive.prompt,
            "prompt_2": None if self.positive.prompt_2 == self.positive.prompt else self.positive.prompt_2,
            "negative_prompt": self.negative.prompt if self.negative else None,
            "negative_prompt_2": self.negative.prompt_2 if self.negative else None,
            "model": self.model,
            "size": str(self.size),
            "seed": seed,
            "num_inference_steps": self.sampling.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "guidance_rescale": self.guidance_rescale or None,
            "sampler": self.sampling.sampler,
            "schedule": self.sampling.schedule,
            "eta": self.sampling.eta or None,
            "strength": self.sampling.strength if self.starts_from_picture else None,
            "controls": [control.parameters() for control in self.controls] or None,
            "hires": None if self.hires is None else self.hires.parameters(),
            "upscale": None if self.upscale is None else self.upscale.parameters(),
            "reproducibility": self.reproducibility,
            "output_format": self.output_format,
            "output_compression": self.output_compression,
        }
        return {name: value for name, value in fields.items() if value is not None}


def make_plan(
    params: GenerateParams, inputs: Inputs, catalogue: Catalogue, *, max_pixel_steps: int, random: Random
) -> Plan:
    """Fill in the model's defaults and check what depends on the model.

    Raises:
        ModelNotFound: the model is not served here.
        InvalidParameter: the size is not one the model draws, or a setting does not go with the sampler.
        TooMuchWork: pixels × steps × images exceed the limit.
    """
    entry = catalogue.model(params.model)
    first_seed = random.randint(0, MAX_SEED) if params.seed == -1 else params.seed
    size = _size(params.size, inputs, entry)
    sampling = _sampling(params, entry, has_picture=inputs.init_image is not None)
    hires = None if params.hires is None else _hires(params, params.hires, size, sampling, entry, catalogue)
    drawn = size if hires is None else hires.size
    plan = Plan(
        model=entry.id,
        size=size,
        seeds=tuple(range(first_seed, first_seed + params.n)),
        sampling=sampling,
        starts_from_picture=inputs.init_image is not None,
        guidance_scale=_guidance(params, entry),
        guidance_rescale=params.guidance_rescale,
        reproducibility=params.reproducibility,
        positive=Text(params.prompt, params.prompt_2 or params.prompt),
        negative=_negative(params, entry),
        controls=tuple(_control(control, index, entry, catalogue) for index, control in enumerate(params.controls)),
        hires=hires,
        upscale=None if params.upscale is None else plan_upscale(params.upscale, drawn, catalogue, param="upscale"),
        quality=_QUALITIES.get(params.quality, "medium"),
        output_format=params.output_format,
        output_compression=_compression(params),
        deadline_s=params.deadline_s,
    )
    if plan.pixel_steps > max_pixel_steps:
        raise TooMuchWork(
            f"{plan.size} pixels × {plan.sampling.num_taken_steps} steps × {params.n} images is "
            f"{plan.pixel_steps} pixel steps; at most {max_pixel_steps} are allowed in one request. "
            "Ask for fewer images or steps, or a smaller size."
        )
    return plan


def _sampling(params: GenerateParams, entry: ModelEntry, *, has_picture: bool) -> Sampling:
    rules = SAMPLERS[params.sampler]
    steps = params.num_inference_steps
    if steps is None:
        factor = _STEPS_OF_QUALITY[_QUALITIES.get(params.quality, "medium")]
        steps = min(max(1, round(factor * entry.defaults.num_inference_steps)), rules.max_steps)
    if steps > rules.max_steps:
        raise InvalidParameter(
            f"num_inference_steps: the sampler {params.sampler} takes at most {rules.max_steps}; got {steps}.",
            param="num_inference_steps",
        )
    if params.schedule is not None and params.schedule not in rules.schedules:
        raise InvalidParameter(
            f"schedule: the sampler {params.sampler} goes with {', '.join(rules.schedules)}; "
            f"got {params.schedule!r}.",
            param="schedule",
        )
    if params.eta > 0 and not rules.takes_eta:
        takers = ", ".join(name for name, other in SAMPLERS.items() if other.takes_eta)
        raise InvalidParameter(f"eta: only {takers} takes it; got {params.eta} with {params.sampler}.", param="eta")
    strength = (_STRENGTH if params.strength is None else params.strength) if has_picture else 1.0
    sampling = Sampling(
        num_inference_steps=steps, sampler=params.sampler, schedule=params.schedule, eta=params.eta, strength=strength
    )
    if sampling.num_taken_steps == 0:
        raise InvalidParameter(
            f"strength: {strength} of {steps} steps is none; ask for at least {1 / steps:.3f} or more steps.",
            param="strength",
        )
    return sampling


def _guidance(params: GenerateParams, entry: ModelEntry) -> float:
    if params.guidance_scale is not None:
        return params.guidance_scale
    factor = 1.0 if params.style is None else _GUIDANCE_OF_STYLE[params.style]
    return round(factor * entry.defaults.guidance_scale, 2)


def _compression(params: GenerateParams) -> int | None:
    if params.output_format == "png" and params.output_compression not in (None, 100):
        raise InvalidParameter(
            f"output_compression: png is lossless; choose jpeg or webp for {params.output_compression}.",
            param="output_compression",
        )
    return params.output_compression


def _hires(
    params: GenerateParams, hires: HiresStep, size: Size, sampling: Sampling, entry: ModelEntry, catalogue: Catalogue
) -> PlannedHires:
    for name in ("controls", "mask_image"):
        if getattr(params, name):
            raise NotSupported(f"hires does not go with {name} yet.", param="hires")
    step = plan_upscale(hires, size, catalogue, param="hires")
    width, height = (
        PIXELS_PER_LATENT * round(side / PIXELS_PER_LATENT) for side in (step.size.width, step.size.height)
    )
    large = Size(width=width, height=height)
    if not entry.sides_px.allow(large):
        raise InvalidParameter(
            f"hires: {size} times {hires.scale} is {large}; {entry.id} draws sides of {entry.sides_px.min} to "
            f"{entry.sides_px.max} pixels. Use upscale for more.",
            param="hires",
        )
    second = replace(
        sampling, num_inference_steps=hires.steps or sampling.num_inference_steps, strength=hires.strength
    )
    if second.num_taken_steps == 0 or second.num_inference_steps > SAMPLERS[second.sampler].max_steps:
        raise InvalidParameter(
            f"hires: {hires.strength} of {second.num_inference_steps} steps is none, or too many for "
            f"{second.sampler}, which takes {SAMPLERS[second.sampler].max_steps}.",
            param="hires",
        )
    return PlannedHires(upscaler=step.upscaler, scale=hires.scale, size=large, sampling=second)


def _size(text: str, inputs: Inputs, entry: ModelEntry) -> Size:
    if text == "auto":
        return inputs.size_within(entry.sides_px) or entry.defaults.size
    sides = entry.sides_px
    try:
        size = Size.parse(text)
    except ValueError as error:
        raise InvalidParameter(f"size: {error}.", param="size") from error
    if not sides.allow(size):
        raise InvalidParameter(
            f"size: {entry.id} draws sides of {sides.min} to {sides.max} pixels in multiples of "
            f"{PIXELS_PER_LATENT}; got {text!r}.",
            param="size",
        )
    return size


def _check_annotator(kind: ControlKind, index: int, catalogue: Catalogue) -> None:
    if kind == "depth" and not any(entry.kind == kind for entry in catalogue.annotators):
        raise NotSupported(f"This server has no annotator for {kind}.", param=f"controls[{index}].annotate")


def _control(control: ControlParams, index: int, model: ModelEntry, catalogue: Catalogue) -> PlannedControl:
    entries = catalogue.controlnets_for(model.id)
    entry = next((entry for entry in entries if control.model == entry.id or control.kind == entry.kind), None)
    if entry is None:
        asked, field = (control.model, "model") if control.model is not None else (control.kind, "kind")
        known = ", ".join(f"{entry.id} ({entry.kind})" for entry in entries) or "none"
        raise InvalidParameter(
            f"controls[{index}].{field}: no ControlNet {asked!r} for {model.id}; there are: {known}.",
            param=f"controls[{index}].{field}",
        )
    if control.annotate:
        _check_annotator(entry.kind, index, catalogue)
    return PlannedControl(
        controlnet=entry.id,
        annotation=Annotation(entry.kind, control.low_threshold, control.high_threshold)
        if control.annotate
        else None,
        scale=entry.scale if control.scale is None else control.scale,
        start=control.start,
        end=control.end,
        guess_mode=control.guess_mode,
    )


def _negative(params: GenerateParams, entry: ModelEntry) -> Text | None:
    """As diffusers: the second text follows the first, and none at all is not the same as an empty one."""
    negative = params.negative_prompt
    if negative is None:
        negative = entry.defaults.negative_prompt
    if negative is None and params.negative_prompt_2 is None:
        return None
    first = negative or ""
    return Text(first, params.negative_prompt_2 or first)
