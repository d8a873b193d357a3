"""The tags by which a prompt names LoRAs: `<lora:NAME>` and `<lora:NAME:WEIGHT>`, as AUTOMATIC1111 reads them.

What a tag's name stands for is not known here. Errors give a tag's place and not its text, because prompts are quoted
nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atelier.core.adapters import MAX_LORA_WEIGHT
from atelier.core.errors import InvalidParameter, UnsupportedValue
from atelier.core.params.parsing import MAX_NAME_CHARS

#: What begins like a tag is meant as one.
_OPENING = re.compile(r"<\s*lora\b", re.IGNORECASE)
_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)
_WEIGHT = re.compile(r"[+-]?(\d{1,9}(\.\d{0,20})?|\.\d{1,20})", re.ASCII)
_FORM = "write <lora:NAME> or <lora:NAME:WEIGHT>, such as <lora:NAME:0.8>"
#: Characters that separate a tag from the text around it.
_SEPARATORS = " \t\r\n,"


@dataclass(frozen=True, slots=True)
class LoraTag:
    """A LoRA that a prompt names."""

    name: str
    #: None stands for the LoRA's own default.
    weight: float | None


def has_lora_tags(prompt: str) -> bool:
    """Return whether the prompt has anything that begins like a tag."""
    return _OPENING.search(prompt) is not None


def take_lora_tags(prompt: str, *, param: str) -> tuple[str, tuple[LoraTag, ...]]:
    """Return the prompt without its tags, and the tags in their order.

    Of the commas and white space around a tag one separator is left. A prompt without tags stays as it is.

    Raises:
        InvalidParameter: a tag is broken, or its weight is out of range; names the field `param`.
        UnsupportedValue: a tag has several weights.
    """
    pieces, tags, end = list[str](), list[LoraTag](), 0
    for start, text in _tags(prompt, param):
        pieces.append(prompt[end:start])
        tags.append(_read(text, start, param))
        end = start + len("<lora:>") + len(text)
    return (_joined([*pieces, prompt[end:]]) if tags else prompt), tuple(tags)


def write_lora_tag(name: str, weight: float) -> str:
    """Return the tag for a LoRA, with six decimals of its weight at most."""
    return f"<lora:{name}:{f'{weight:.6f}'.rstrip('0').rstrip('.')}>"


def _tags(prompt: str, param: str) -> Iterator[tuple[int, str]]:
    """Yield where each tag starts, and what it has after its first colon. Raises InvalidParameter."""
    for opening in _OPENING.finditer(prompt):
        tag = _TAG.match(prompt, opening.start())
        if tag is None:
            raise _broken(opening.start(), param)
        yield opening.start(), tag[1]


def _read(text: str, start: int, param: str) -> LoraTag:
    name, *weights = (part.strip() for part in text.split(":"))
    if not name or len(name) > MAX_NAME_CHARS:
        raise _broken(start, param)
    if len(weights) > 1 or any("=" in weight for weight in weights):
        raise UnsupportedValue(
            f"{param}: the LoRA tag at character {start + 1} has several weights; a LoRA has one, for the UNet and "
            f"the text encoders: {_FORM}.",
            param=param,
        )
    if not weights:
        return LoraTag(name, None)
    if not _WEIGHT.fullmatch(weights[0]):
        raise _broken(start, param)
    weight = float(weights[0])
    if abs(weight) > MAX_LORA_WEIGHT:
        raise InvalidParameter(
            f"{param}: the weight of the LoRA tag at character {start + 1} must be within −{MAX_LORA_WEIGHT:g} … "
            f"{MAX_LORA_WEIGHT:g}; got {weight:g}.",
            param=param,
        )
    return LoraTag(name, weight)


def _broken(start: int, param: str) -> InvalidParameter:
    return InvalidParameter(f"{param}: the LoRA tag at character {start + 1} cannot be read; {_FORM}.", param=param)


def _joined(pieces: Sequence[str]) -> str:
    """Join the texts between tags; their separators become a comma if there was one, else a space."""
    joined = pieces[0].rstrip(_SEPARATORS)
    gap = pieces[0][len(joined) :]
    for piece in pieces[1:]:
        text = piece.lstrip(_SEPARATORS)
        gap += piece[: len(piece) - len(text)]
        if text:
            separator = (", " if "," in gap else " ") if joined else ""
            body = text.rstrip(_SEPARATORS)
            joined, gap = f"{joined}{separator}{body}", text[len(body) :]
    return joined
