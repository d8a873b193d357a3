"""Read a LoRA's file into memory.

A file is read by safetensors only. Its keys are understood before any tensor is loaded, and every key counts: a file
with an unknown key is refused. A file's layout follows from its keys, not from its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from atelier.core.errors import AdapterInvalid
from atelier.families.unet.adapters.adapter import Adapter, Layers, LowRank
from atelier.families.unet.adapters.factors import change
from atelier.families.unet.adapters.fitting import check_fits
from atelier.families.unet.adapters.keys import LayerKeys, Part, by_layer
from atelier.families.unet.adapters.names import layer_names, plain
from atelier.families.unet.adapters.scales import PeftConfig, layer_scale, peft_config
from atelier.models.hashes import tensors_hash

#: safetensors' names of types that weights can have; trainers write a whole alpha as an integer.
_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_ALPHA_TYPES = (*_TYPES, "I64", "I32")


def read_adapter(file: Path, *, name: str, modules: Mapping[Part, torch.nn.Module]) -> Adapter:
    """Read the LoRA with the id `name` for the modules that this process has; other modules' layers are left out.

    Layers have the order of the modules'. Raises AdapterInvalid if the file is missing, is no LoRA of a known layout,
    holds values that are not finite or does not fit the modules.
    """
    try:
        # Read, not mapped: a mapped file that shrinks later ends the process.
        with safe_open(file, framework="pt", backend="pread") as opened:
            keys = by_layer(opened.keys())
            source = _Source(file, opened, opened.metadata() or {})
            layers = {part: _layers(source, _of_part(keys, part, modules[part])) for part in modules}
    except (OSError, SafetensorError) as error:
        raise AdapterInvalid(
            f"LoRA {name!r}: {file} cannot be read as safetensors ({error}).", param="loras"
        ) from error
    except ValueError as error:
        raise AdapterInvalid(f"LoRA {name!r}: {error}", param="loras") from error
    for part, module in modules.items():
        check_fits(layers[part], module, name=name)
    return Adapter(
        unet=layers.get("unet", {}),
        text_encoder=layers.get("text_encoder", {}),
        text_encoder_2=layers.get("text_encoder_2", {}),
        weights_hash=tensors_hash(_named(layers)),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    file: Path
    opened: safe_open
    metadata: Mapping[str, str]

    def tensor(self, key: str) -> torch.Tensor:
        """Load a tensor in float32. Raises ValueError if it has another type than those of weights."""
        allowed = _ALPHA_TYPES if key.endswith(".alpha") else _TYPES
        dtype = self.opened.get_slice(key).get_dtype()  # type: ignore[no-untyped-call]
        if dtype not in allowed:
            raise ValueError(f"{key!r} is of type {dtype}; allowed are {', '.join(allowed)}.")
        tensor: torch.Tensor = self.opened.get_tensor(key)  # type: ignore[no-untyped-call]
        return tensor.to(torch.float32)


@dataclass(frozen=True, slots=True)
class _Found:
    keys: LayerKeys
    #: Shape of the weight of the model's layer.
    shape: list[int]


def _of_part(layers: Iterable[LayerKeys], part: Part, model: torch.nn.Module) -> dict[str, _Found]:
    """Return the layers of one part by the names of the model's layers, in the model's order."""
    names = layer_names(model)
    found: dict[str, LayerKeys] = {}
    for layer in layers:
        if layer.part != part:
            continue
        spelling, own = layer.prefix + layer.name, names.get(plain(layer.name))
        if own is None:
            raise ValueError(
                f"{spelling!r} is no Linear or Conv2d of this model's {part}. It was trained for another base model; "
                "use it with that one."
            )
        if own in found:
            raise ValueError(f"{spelling!r} and {found[own].prefix + found[own].name!r} are the same layer.")
        found[own] = layer
    modules = model.named_modules()
    return {name: _Found(found[name], list(module.weight.shape)) for name, module in modules if name in found}


def _layers(source: _Source, found: Mapping[str, _Found]) -> dict[str, LowRank]:
    configs: dict[str, PeftConfig | None] = {}
    changes = {}
    for name, layer in found.items():
        if layer.keys.prefix not in configs:
            configs[layer.keys.prefix] = peft_config(source.file, source.metadata, layer.keys)
        try:
            changes[name] = _change(source, layer, configs[layer.keys.prefix])
        except ValueError as error:
            raise ValueError(f"layer {name!r} of the {layer.keys.part}: {error}") from error
    return changes


def _change(source: _Source, layer: _Found, config: PeftConfig | None) -> LowRank:
    factors = {factor: source.tensor(key) for factor, key in layer.keys.keys.items()}
    alpha = factors.pop("alpha", None)
    if alpha is not None and alpha.numel() != 1:
        raise ValueError(f"its 'alpha' is {list(alpha.shape)}; it must be one number.")
    scale = partial(layer_scale, layer.keys, None if alpha is None else alpha.item(), config)
    product = change(factors, layer.shape, scale)
    if not (product.down.isfinite().all() and product.up.isfinite().all()):
        raise ValueError("it holds values that are not finite. The file is damaged or its training failed.")
    return product


def _named(layers: Mapping[Part, Layers]) -> Iterator[tuple[str, torch.Tensor]]:
    for part in sorted(layers):
        for name in sorted(layers[part]):
            yield f"{part}.{name}.down", layers[part][name].down
            yield f"{part}.{name}.up", layers[part][name].up
