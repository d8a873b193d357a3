"""The factor on a layer's change that a LoRA's file or the config beside it gives.

It is alpha / rank, where alpha comes from the first of these:

1. the layer's own `.alpha` tensor (kohya, LyCORIS),
2. `lora_adapter_metadata` in the file's header (diffusers' `save_lora_weights` and `save_lora_adapter`),
3. `adapter_config.json` in the file's folder (peft's `save_pretrained`, which writes alpha nowhere else).

Without any, alpha is the rank, as diffusers and kohya have it. All errors are ValueErrors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atelier.families.unet.adapters.keys import PEFT_PREFIX, LayerKeys

_METADATA = "lora_adapter_metadata"
_CONFIG_FILE = "adapter_config.json"
_MAX_CONFIG_BYTES = 2**20
_MAX_PATTERN_CHARS, _MAX_REPETITIONS = 200, 2

#: Settings of peft's LoraConfig under which a layer changes by more than its two factors.
_UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "kasa_config", "arrow_config", "monteclora_config"),
    *("alora_invocation_tokens", "layer_replication", "target_parameters"),
)
#: Initialisations that also change the base model's weights.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The part of a peft LoraConfig that a layer's change depends on."""

    #: Where it comes from, for messages.
    origin: str
    values: Mapping[str, object]

    def __post_init__(self) -> None:
        if (kind := self.values.get("peft_type", "LORA")) != "LORA":
            raise ValueError(f"{self.origin} says peft_type {kind!r}; only LORA is supported.")
        for name in _UNSUPPORTED:
            if self.values.get(name):
                raise ValueError(f"{self.origin} sets {name!r}, which is not supported.")
        init = str(self.values.get("init_lora_weights"))
        if init.startswith(_CHANGES_BASE):
            raise ValueError(
                f"{self.origin} says init_lora_weights {init!r}, which changes the base model too. Convert it by "
                "peft's save_pretrained(…, path_initial_model_for_weight_conversion=…)."
            )

    def scale(self, layer: str, rank: int) -> float:
        """Return the factor on a layer's change. Raises ValueError if the rank is not the config's."""
        expected = self._value(layer, "rank_pattern", "r")
        if expected != rank:
            raise ValueError(f"its rank is {rank}, but {self.origin} says {expected:g}: they do not belong together.")
        alpha = self._value(layer, "alpha_pattern", "lora_alpha")
        return alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank

    def _value(self, layer: str, pattern_name: str, default_name: str) -> float:
        """Return a number for a layer: of the first pattern that matches the end of its name, or else the default."""
        patterns = self.values.get(pattern_name) or {}
        if not isinstance(patterns, dict):
            raise ValueError(f"{self.origin}: {pattern_name!r} must be an object.")
        for pattern, value in patterns.items():
            _check_is_simple(pattern, f"{self.origin}: {pattern_name!r}")
            try:
                matches = re.match(rf"(.*\.)?({pattern})$", layer)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{self.origin}: {pattern!r} is no regular expression ({error}).") from error
            if matches:
                return _number(value, f"{self.origin}: {pattern_name!r} of {pattern!r}")
        return _number(self.values.get(default_name), f"{self.origin}: {default_name!r}")


def peft_config(file: Path, metadata: Mapping[str, str], layer: LayerKeys) -> PeftConfig | None:
    """Return the config that the header of a layer's file has, or that lies beside the file, or None.

    `metadata` is the header's. Raises ValueError if the config is not valid or says more than a plain LoRA.
    """
    if layer.prefix == PEFT_PREFIX:
        return _beside(file.parent / _CONFIG_FILE)
    if _METADATA not in metadata or layer.prefix not in ("", f"{layer.part}."):
        return None
    values = _object(metadata[_METADATA], _METADATA)
    if layer.prefix:
        values = {name: value for name, value in values.items() if name.startswith(layer.prefix)}
    own = {name.removeprefix(f"{layer.part}."): value for name, value in values.items()}
    return PeftConfig(_METADATA, own) if own else None


def _beside(path: Path) -> PeftConfig | None:
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes.")
    return PeftConfig(str(path), _object(path.read_text(errors="replace"), str(path)))


def layer_scale(layer: LayerKeys, alpha: float | None, config: PeftConfig | None, rank: int) -> float:
    """Return the factor on a layer's change. Raises ValueError if alpha is missing, 0 or not finite."""
    if alpha is not None:
        return _number(alpha, "'alpha'") / rank
    if config is not None:
        return config.scale(layer.name, rank)
    if layer.prefix == PEFT_PREFIX:
        raise ValueError(f"its alpha is not known: put the {_CONFIG_FILE} that peft wrote into the file's folder.")
    return 1.0


def _check_is_simple(pattern: str, origin: str) -> None:
    """Raise ValueError for a regular expression that could take seconds to match a layer's name.

    Names of layers need no groups; without groups, a pattern with few repetitions takes little time.
    """
    if "(" in pattern or len(pattern) > _MAX_PATTERN_CHARS or len(re.findall(r"[*+?{]", pattern)) > _MAX_REPETITIONS:
        raise ValueError(
            f"{origin} has the pattern {pattern[:_MAX_PATTERN_CHARS]!r}; allowed are {_MAX_PATTERN_CHARS} "
            f"characters, no groups and {_MAX_REPETITIONS} repetitions."
        )


def _object(text: str, origin: str) -> dict[str, object]:
    try:
        value = json.loads(text, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{origin} is not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"{origin} must be a JSON object.")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value == 0:
        raise ValueError(f"{what} is {value!r}; it must be a finite number other than 0.")
    return float(value)
