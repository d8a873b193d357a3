"""From a client's parameters to a plan with nothing left open; pure, before any model sees the request."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import PIXELS_PER_LATENT, ModelEntry, Size
from atelier.core.conditioning import Text
from atelier.core.errors import InvalidParameter, TooMuchWork
from atelier.core.params import MAX_SEED, GenerateParams, OutputFormat, Quality, Scalar, UpscaleStep
from atelier.core.sampling import SAMPLERS, Reproducibility, Sampling
from atelier.imaging.formats import check_output
from atelier.pipeline.controls import PlannedControl, plan_control
from atelier.pipeline.inputs import Inputs
from atelier.pipeline.upscaling import PlannedHires, PlannedUpscale, plan_hires, plan_upscale

#: Fields of a request by their names on the wire, without its pictures.
Parameters = dict[str, Scalar | dict[str, Scalar] | list[dict[str, Scalar]]]

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
#: Of quality max, where neither the client nor a picture says how large.
_UPSCALE_OF_QUALITY = UpscaleStep(scale=2)
_GUIDANCE_OF_STYLE = {"vivid": 1.4, "natural": 0.7}
#: Of image-to-image, where the client says nothing.
_STRENGTH = 0.8


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

    @property
    def relative_steps_of_hires(self) -> float:
        """The second pass's steps over the first's."""
        return 0 if self.hires is None else self.hires.sampling.num_taken_steps / self.sampling.num_taken_steps

    def parameters(self, seed: int) -> Parameters:
        """The fields that make one of the pictures again, by their names on the wire."""
        fields: dict[str, Scalar | dict[str, Scalar] | list[dict[str, Scalar]] | None] = {
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
    first_seed = _first_seed(params, random)
    size = _size(params.size, inputs, entry)
    sampling = _sampling(params, entry, has_picture=inputs.init_image is not None)
    hires = None if params.hires is None else plan_hires(params.hires, inputs, size, sampling, entry, catalogue)
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
        controls=tuple(
            plan_control(control, index, entry, catalogue) for index, control in enumerate(params.controls)
        ),
        hires=hires,
        upscale=_upscale(params, inputs, drawn, catalogue),
        quality=_QUALITIES.get(params.quality, "medium"),
        output_format=params.output_format,
        output_compression=params.output_compression,
        deadline_s=params.deadline_s,
    )
    made = plan.picture_size
    check_output(params.output_format, params.output_compression, width=made.width, height=made.height)
    if plan.pixel_steps > max_pixel_steps:
        raise TooMuchWork(
            f"{plan.size} pixels × {plan.sampling.num_taken_steps} steps × {params.n} images is "
            f"{plan.pixel_steps} pixel steps; at most {max_pixel_steps} are allowed in one request. "
            "Ask for fewer images or steps, or a smaller size."
        )
    return plan


def _first_seed(params: GenerateParams, random: Random) -> int:
    last = MAX_SEED - params.n + 1
    if params.seed > last:
        raise InvalidParameter(
            f"seed: {params.n} pictures take as many seeds, so the first is at most {last}; got {params.seed}.",
            param="seed",
        )
    return random.randint(0, last) if params.seed == -1 else params.seed


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


def _upscale(params: GenerateParams, inputs: Inputs, drawn: Size, catalogue: Catalogue) -> PlannedUpscale | None:
    says_how_large = params.size != "auto" or params.hires is not None or inputs.first is not None
    step = params.upscale
    if step is None and params.quality == "max" and not says_how_large:
        step = _UPSCALE_OF_QUALITY
    if step is None:
        return None
    return plan_upscale(step, drawn, catalogue, num_pictures=params.n, param="upscale")


def _guidance(params: GenerateParams, entry: ModelEntry) -> float:
    if params.guidance_scale is not None:
        return params.guidance_scale
    factor = 1.0 if params.style is None else _GUIDANCE_OF_STYLE[params.style]
    return round(factor * entry.defaults.guidance_scale, 2)


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


def _negative(params: GenerateParams, entry: ModelEntry) -> Text | None:
    """As diffusers: the second text follows the first, and none at all is not the same as an empty one."""
    negative = params.negative_prompt
    if negative is None:
        negative = entry.defaults.negative_prompt
    if negative is None and params.negative_prompt_2 is None:
        return None
    first = negative or ""
    return Text(first, params.negative_prompt_2 or first)
