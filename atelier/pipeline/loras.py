"""Resolves the LoRAs of a request: those of `loras` and of tags in prompts, with weights and trigger words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from atelier.catalogue.capabilities import Supported
from atelier.catalogue.entries import LoraEntry, ModelEntry
from atelier.catalogue.loras import Loras
from atelier.core.adapters import MAX_LORAS, Lora, in_order
from atelier.core.errors import InvalidParameter
from atelier.core.params.generate import MAX_PROMPT_CHARS, GenerateParams
from atelier.core.params.loras import LoraParams
from atelier.prompts.lora_tags import has_lora_tags, take_lora_tags
from atelier.prompts.trigger_words import with_trigger_words

_PROMPTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
#: Texts for the second encoder, and the fields whose texts they replace.
_SECOND = {"prompt_2": "prompt", "negative_prompt_2": "negative_prompt"}


class _Named(NamedTuple):
    """A LoRA as a request names it."""

    id: str
    weight: float | None
    #: The field that names it.
    param: str


class ResolvedLoras(NamedTuple):
    """A request whose prompts have no tags and which names each LoRA with its weight."""

    params: GenerateParams
    #: Trigger words of its LoRAs that were put into the prompt.
    trigger_words_added: tuple[str, ...]


def names_loras(params: GenerateParams) -> bool:
    """Return whether a request names a LoRA, in `loras` or in a prompt."""
    return bool(params.loras) or any(has_lora_tags(prompt) for prompt in _prompts(params).values())


def resolve_loras(params: GenerateParams, model: ModelEntry, loras: Loras, supported: Supported) -> ResolvedLoras:
    """Take the tags out of the prompts, fill in the weights, and add the trigger words that the prompt lacks.

    Raises:
        LoraNotFound: a LoRA is not in `loras`.
        NotSupported: no LoRA goes with the model.
        InvalidParameter: a tag is broken; a LoRA is named twice or goes with another model; there are too many, or
            the prompt becomes too long.
    """
    prompts, named = _without_tags(params)
    _check_names(named)
    entries = [_entry(one, model, loras, supported) for one in named]
    resolved = tuple(
        LoraParams(model=entry.id, weight=entry.weight if one.weight is None else one.weight)
        for one, entry in zip(named, entries, strict=True)
    )
    words = [
        word
        for lora, entry in zip(resolved, entries, strict=True)
        if lora.weight != 0
        for word in entry.trigger_words
    ]
    added = _add(prompts, words)
    if not named:
        return ResolvedLoras(params, ())
    texts = {field: prompts.get(field) for field in _PROMPTS}
    return ResolvedLoras(params.model_copy(update={**texts, "loras": resolved}), added)


def acting(loras: Iterable[LoraParams]) -> tuple[Lora, ...]:
    """Convert resolved LoRAs to those that the engine and the text encoders apply, in their order."""

    def convert(lora: LoraParams) -> Lora:
        assert lora.model is not None
        assert lora.weight is not None
        return Lora(lora.model, lora.weight)

    return in_order(map(convert, loras))


def _prompts(params: GenerateParams) -> dict[str, str]:
    """Return the prompts that are sent, by their fields; one that only repeats another is left out."""
    sent = {name: getattr(params, name) for name in _PROMPTS}
    return {name: text for name, text in sent.items() if text is not None and text != sent.get(_SECOND.get(name, ""))}


def _without_tags(params: GenerateParams) -> tuple[dict[str, str], list[_Named]]:
    """Return the prompts without their tags, by field, and all LoRAs that the request names."""
    named = [
        _Named(lora.model, lora.weight, f"loras[{index}].model")
        if lora.model is not None
        else _Named(lora.name or "", lora.weight, f"loras[{index}].name")
        for index, lora in enumerate(params.loras)
    ]
    prompts = {}
    for field, text in _prompts(params).items():
        prompts[field], tags = take_lora_tags(text, param=field)
        named += [_Named(tag.name, tag.weight, field) for tag in tags]
    return prompts, named


def _check_names(named: Sequence[_Named]) -> None:
    if len(named) > MAX_LORAS:
        param = named[MAX_LORAS].param
        raise InvalidParameter(
            f"{param}: a request may name at most {MAX_LORAS} LoRAs; this one names {len(named)}.", param=param
        )
    seen = set()
    for one in named:
        if one.id in seen:
            raise InvalidParameter(
                f"{one.param}: the LoRA {one.id!r} is named twice; name it once, with its whole weight.",
                param=one.param,
            )
        seen.add(one.id)


def _entry(one: _Named, model: ModelEntry, loras: Loras, supported: Supported) -> LoraEntry:
    entry = loras.get(one.id, param=one.param)
    if not entry.goes_with(model):
        supported.check("lora", param=one.param)
        raise InvalidParameter(
            f"{one.param}: the LoRA {entry.id!r} goes with {entry.base or 'models of SDXL'}, not with {model.id}.",
            param=one.param,
        )
    return entry


def _add(prompts: dict[str, str], words: Sequence[str]) -> tuple[str, ...]:
    """Add trigger words to the positive prompts in `prompts`, and return those that one of them lacked."""
    added: dict[str, None] = {}
    for field in ("prompt", "prompt_2"):
        if prompts.get(field) or field == "prompt":
            prompts[field], lacking = with_trigger_words(prompts[field], words)
            added |= dict.fromkeys(lacking)
        if len(prompts.get(field, "")) > MAX_PROMPT_CHARS:
            raise InvalidParameter(
                f"{field}: with the trigger words of its LoRAs it has {len(prompts[field])} characters; at most "
                f"{MAX_PROMPT_CHARS} are allowed.",
                param=field,
            )
    return tuple(added)
