"""`atelier models`: what the server offers."""

from __future__ import annotations

from collections.abc import Iterator

from cli import options
from cli.answers import Capabilities, Offered
from cli.running import with_server
from cli.tables import print_table

_HEADINGS = ("ID", "KIND", "DESCRIPTION", "LICENCE")


def models(server: options.ServerAddress = options.DEFAULT_SERVER) -> None:
    """List the server's models, LoRAs, ControlNets and upscalers."""
    offered = with_server(server, lambda connected, _: connected.capabilities())
    print_table(_HEADINGS, [(one.id, kind, one.description, one.licence) for kind, one in _kinds(offered)])


def _kinds(offered: Capabilities) -> Iterator[tuple[str, Offered]]:
    for model in offered.models:
        yield f"model, {model.default_size}, {model.num_inference_steps} steps", model
    for lora in offered.loras:
        yield f"LoRA of {', '.join(lora.models)}", lora
    for controlnet in offered.controlnets:
        yield f"ControlNet {controlnet.kind} of {controlnet.base}", controlnet
    for upscaler in offered.upscalers:
        yield "upscaler" if upscaler.has_weights else "upscaler without weights", upscaler
