"""The whole graph in one process, without Ray: for notebooks and tests.

`local_stages` loads every model of a catalogue and returns the stages that the pipeline calls, so that a text
becomes a PNG file with neither a cluster nor a server:

    async def draw(prompt: str, file: Path) -> None:
        catalogue = read_catalogue().only(["tiny-sdxl"])
        async with local_stages(catalogue) as stages:
            ...  # run the pipeline with these stages and write the image's bytes to the file

Each stage is a class of its own, and the deployments serve these same classes, so both make the same images. Only
this package and `deployments` import both the pipeline and the engine.
"""

from atelier.local.denoising import event_stream, new_engine
from atelier.local.images import AnnotatorStage, AutoencoderStage, UpscalerStage
from atelier.local.runtime import Runtime
from atelier.local.stages import DEFAULT_SETTINGS, LocalStages, local_stages
from atelier.local.texts import TextEncoderStage, TextKey

__all__ = [
    "DEFAULT_SETTINGS",
    "AnnotatorStage",
    "AutoencoderStage",
    "LocalStages",
    "Runtime",
    "TextEncoderStage",
    "TextKey",
    "UpscalerStage",
    "event_stream",
    "local_stages",
    "new_engine",
]
