"""Resolves a client's params into a plan with every default filled in. Pure, and done before images are decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from atelier.catalogue.capabilities import Supported
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.loras import NO_LORAS, Loras
from atelier.core.conditioning import Prompts, Text
from atelier.core.denoising import Pass
from atelier.core.errors import InvalidParameter, NotSupported, TooMuchWork
from atelier.core.geometry import PIXELS_PER_LATENT, Size
from atelier.core.params.generate import AUTO, MAX_SEED, GenerateParams
from atelier.core.sampling import SAMPLERS, Sampling
from atelier.imaging.formats import check_output
from atelier.pipeline.controls import resolve_control
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.loras import acting, resolve_loras
from atelier.pipeline.upscaling import resolve_hires, resolve_upscale

_Scalar = str | int | float | bool
#: Fields of a request by their names on the wire.
Parameters = dict[str, _Scalar | dict[str, _Scalar] | list[dict[str, _Scalar]]]

_DEFAULT_STRENGTH = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request with every default filled in, and the engine's passes that make its images."""

    #: The client's params with defaults filled in. None remains where `schedule` is that of the model's scheduler,
    #: `negative_prompt` is embeddings of zeros, or the `model` of `hires` or `upscale` is bicubic resampling.
    params: GenerateParams
    #: One pass, or two with `hires`.
    passes: tuple[Pass, ...]
    #: Trigger words of the LoRAs that were put into the prompt.
    trigger_words_added: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.passes[0].model

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per image."""
        return self.passes[0].seeds

    @property
    def prompts(self) -> Prompts:
        """Prompts for the text encoders; `negative` is None without guidance or without a negative prompt."""
        negative = _negative(self.params) if self.passes[0].is_guided else None
        positive = _text(self.params.prompt, self.params.prompt_2)
        return Prompts(positive=positive, negative=negative, loras=self.passes[0].loras)

    @property
    def pixel_steps(self) -> int:
        """The work of all passes: pixels per image × steps × images."""
        return sum(pass_.pixel_steps for pass_ in self.passes)

    @property
    def image_size(self) -> Size:
        """Size of the finished images."""
        drawn = self.passes[-1].size
        return drawn if self.params.upscale is None else drawn.scaled(self.params.upscale.scale)

    def parameters(self, seed: int) -> Parameters:
        """Return the fields that reproduce the image of this seed, without its input images."""
        fields: Parameters = self.params.model_copy(update={"seed": seed}).model_dump(mode="json", exclude_none=True)
        return fields


def resolve(
    params: GenerateParams,
    sizes: InputSizes,
    catalogue: Catalogue,
    *,
    loras: Loras = NO_LORAS,
    max_pixel_steps: int,
    random: Random,
) -> Plan:
    """Fill in the model's defaults and check what depends on the model; `loras` are those that may be named.

    Raises:
        ModelNotFound: the model or upscaler is not served here.
        LoraNotFound: a LoRA is not served here.
        InvalidParameter: the model does not support the size or has no such ControlNet; a setting does not fit the
            sampler; a seed, strength or enlargement is out of range; there is a negative_prompt_2 but no
            negative_prompt; strength or image_guidance_scale is sent to a model that does not read it; a LoRA goes
            with another model, is named twice or in a broken tag; or the file format cannot hold the images.
        NotSupported: the model cannot do what is asked for; hires with controls or a mask; a control with `annotate`
            whose kind has no annotator.
        TooMuchWork: pixels × steps × images exceed `max_pixel_steps`.
    """
    entry = catalogue.model(params.model)
    supported = Supported.of(entry, catalogue, loras)
    _check_images(params, supported)
    params, trigger_words_added = resolve_loras(params, entry, loras, supported)
    size = _size(params.size, sizes, entry)
    sampling = _sampling(params, entry)
    first = Pass(
        model=entry.id,
        size=size,
        seeds=_seeds(params, random),
        sampling=sampling,
        guidance_scale=entry.defaults.guidance_scale if params.guidance_scale is None else params.guidance_scale,
        guidance_rescale=params.guidance_rescale,
        image_guidance_scale=_image_guidance_scale(params, entry),
        loras=acting(params.loras),
        reproducibility=params.reproducibility,
    )
    resolved = params.model_copy(
        update={
            "model": entry.id,
            "size": str(size),
            "seed": first.seeds[0],
            "num_inference_steps": sampling.num_inference_steps,
            "guidance_scale": first.guidance_scale,
            "image_guidance_scale": first.image_guidance_scale,
            "sampler": sampling.sampler,
            "schedule": sampling.schedule,
            "strength": None if params.init_image is None or entry.edits else sampling.strength,
            "controls": tuple(
                resolve_control(control, index, entry, catalogue, supported)
                for index, control in enumerate(params.controls)
            ),
            **_resolved_prompts(params, entry),
        }
    )
    plan = replace(_with_enlargements(resolved, first, entry, catalogue), trigger_words_added=trigger_words_added)
    check_output(params.output_format, params.output_compression, plan.image_size)
    _check_work(plan, max_pixel_steps)
    return plan


def _with_enlargements(params: GenerateParams, first: Pass, entry: ModelEntry, catalogue: Catalogue) -> Plan:
    """Return the plan with the second pass and the upscaler that the params ask for."""
    hires, upscale = params.hires, params.upscale
    passes: tuple[Pass, ...] = (first,)
    if hires is not None:
        model = resolve_upscale(hires, first.size, catalogue, field="hires")
        second = resolve_hires(params, hires, first, entry)
        hires = hires.model_copy(update={"model": model, "steps": second.sampling.num_inference_steps})
        passes = (first, second)
    if upscale is not None:
        model = resolve_upscale(upscale, passes[-1].size, catalogue, num_images=params.n, field="upscale")
        upscale = upscale.model_copy(update={"model": model})
    return Plan(params=params.model_copy(update={"hires": hires, "upscale": upscale}), passes=passes)


def _check_images(params: GenerateParams, supported: Supported) -> None:
    if params.mask_image is not None:
        supported.check("inpaint", param="mask_image")
    elif params.init_image is not None:
        is_edit = supported.by_name["edit"] and params.prompt.strip()
        supported.check("edit" if is_edit else "image_to_image", param="init_image")
    else:
        supported.check("text_to_image", param="prompt")
    if params.hires is not None:
        supported.check("image_to_image", param="hires")


def _size(text: str, sizes: InputSizes, entry: ModelEntry) -> Size:
    sides = entry.sides_px
    if text == AUTO:
        return entry.defaults.size if sizes.first is None else sides.nearest(sizes.first)
    size = Size.parse(text)
    if not sides.allow(size):
        raise InvalidParameter(
            f"size: {entry.id} draws sides of {sides.min} to {sides.max} pixels in multiples of "
            f"{PIXELS_PER_LATENT}; got {text!r}.",
            param="size",
        )
    return size


def _seeds(params: GenerateParams, random: Random) -> tuple[int, ...]:
    last = MAX_SEED - params.n + 1
    if params.seed > last:
        raise InvalidParameter(
            f"seed: {params.n} images take as many seeds, so the first is at most {last}; got {params.seed}.",
            param="seed",
        )
    first = random.randint(0, last) if params.seed == -1 else params.seed
    return tuple(range(first, first + params.n))


def _sampling(params: GenerateParams, entry: ModelEntry) -> Sampling:
    """Return the request's sampling, with the model's defaults as far as they go with what the request sets."""
    name = params.sampler or entry.defaults.sampler
    sampler = SAMPLERS[name]
    steps = params.num_inference_steps
    if steps is None:
        steps = min(entry.defaults.num_inference_steps, sampler.max_steps)
    if steps > sampler.max_steps:
        raise InvalidParameter(
            f"num_inference_steps: the sampler {name} takes at most {sampler.max_steps}; got {steps}.",
            param="num_inference_steps",
        )
    schedule = params.schedule
    if schedule is None and entry.defaults.schedule in sampler.schedules:
        schedule = entry.defaults.schedule
    if schedule is not None and schedule not in sampler.schedules:
        raise InvalidParameter(
            f"schedule: the sampler {name} goes with {', '.join(sampler.schedules)}; got {schedule!r}.",
            param="schedule",
        )
    if params.eta > 0 and not sampler.takes_eta:
        takers = ", ".join(name for name, other in SAMPLERS.items() if other.takes_eta)
        raise InvalidParameter(f"eta: only {takers} takes it; got {params.eta} with {name}.", param="eta")
    strength = 1.0
    if entry.edits and params.strength is not None:
        raise InvalidParameter(
            f"strength: {entry.id} edits by instructions; send image_guidance_scale instead.",
            param="strength",
        )
    if params.init_image is not None and not entry.edits:
        strength = _DEFAULT_STRENGTH if params.strength is None else params.strength
    if int(steps * strength) == 0:
        raise InvalidParameter(
            f"strength: {strength} of {steps} steps is none; ask for at least {1 / steps:.3f} or more steps.",
            param="strength",
        )
    return Sampling(num_inference_steps=steps, sampler=name, schedule=schedule, eta=params.eta, strength=strength)


def _image_guidance_scale(params: GenerateParams, entry: ModelEntry) -> float | None:
    asked = params.image_guidance_scale
    if entry.edits:
        return entry.defaults.image_guidance_scale if asked is None else asked
    if asked is not None:
        raise InvalidParameter(
            f"image_guidance_scale: {entry.id} does not edit by instructions; send a lower strength instead.",
            param="image_guidance_scale",
        )
    return None


def _resolved_prompts(params: GenerateParams, entry: ModelEntry) -> dict[str, str | None]:
    """Return all prompts with defaults filled in, by field name.

    As in diffusers, an absent negative prompt of SDXL differs from an empty one.
    """
    if not entry.traits.has_second_text_encoder:
        _check_no_second_prompts(params, entry)
    negative = entry.negative_prompt if params.negative_prompt is None else params.negative_prompt
    if negative is None and params.negative_prompt_2:
        raise InvalidParameter(
            "negative_prompt_2: needs a negative_prompt, which may be empty; without one, guidance runs against "
            "embeddings of zeros.",
            param="negative_prompt_2",
        )
    prompt = params.prompt if params.prompt.strip() else entry.defaults.empty_prompt or params.prompt
    return {
        "prompt": prompt,
        "prompt_2": None if params.prompt_2 == prompt else params.prompt_2 or None,
        "negative_prompt": negative,
        "negative_prompt_2": (params.negative_prompt_2 or negative) if entry.traits.has_second_text_encoder else None,
    }


def _check_no_second_prompts(params: GenerateParams, entry: ModelEntry) -> None:
    texts = {"prompt_2": params.prompt, "negative_prompt_2": params.negative_prompt}
    for field, first in texts.items():
        if getattr(params, field) not in (None, "", first):
            raise NotSupported(
                f"{field}: {entry.id} has one text encoder; leave it out, or send its text as {field[:-2]}.",
                param=field,
            )


def _negative(params: GenerateParams) -> Text | None:
    return None if params.negative_prompt is None else _text(params.negative_prompt, params.negative_prompt_2)


def _text(prompt: str, prompt_2: str | None) -> Text:
    return Text(prompt, prompt if prompt_2 is None else prompt_2)


def _check_work(plan: Plan, max_pixel_steps: int) -> None:
    if plan.pixel_steps > max_pixel_steps:
        of_passes = " + ".join(
            f"{pass_.size} pixels × {pass_.sampling.num_taken_steps} steps" for pass_ in plan.passes
        )
        work = of_passes if len(plan.passes) == 1 else f"({of_passes})"
        raise TooMuchWork(
            f"{work} × {len(plan.seeds)} images is {plan.pixel_steps} pixel steps; at most {max_pixel_steps} are "
            "allowed in one request. Ask for fewer images or steps, or a smaller size."
        )
