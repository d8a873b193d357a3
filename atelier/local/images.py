"""The image stages: latents to images and back, control maps, and upscaling; each in its runtime's thread."""

from __future__ import annotations

from collections.abc import Sequence

from atelier.catalogue.catalogue import Catalogue
from atelier.control.annotators import Annotators
from atelier.core.conditioning import Floats
from atelier.core.control import Annotation, ControlImage
from atelier.core.origin import Origin
from atelier.local.per_model import PerModel
from atelier.local.runtime import Runtime
from atelier.models.autoencoder import Autoencoder
from atelier.models.upscaler import Upscalers, UpscaleTask
from atelier.pipeline.stages import Annotated, DecodedLatents, EncodedLatents, Pixels, Upscaled


class AutoencoderStage:
    """The stage that encodes and decodes images, with the VAEs of all models."""

    def __init__(self, catalogue: Catalogue, runtime: Runtime) -> None:
        """Load the VAEs of the models that are to be preloaded. Raises ModelUnavailable."""
        placement, host = runtime.placement, runtime.host
        self._runtime = runtime
        self._autoencoders = PerModel(
            catalogue.model, lambda entry: Autoencoder(entry, placement, host), runtime.thread
        )
        self._autoencoders.load(catalogue.models)

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        """Encode images [images, height, width, 3] by the model's VAE."""
        autoencoder = await self._autoencoders.get(model)
        mean, std = await self._runtime.thread.run_async(lambda: autoencoder.encode_latents(pixels))
        return EncodedLatents(mean, std, autoencoder.scaling_factor, self._origin(model, autoencoder))

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        """Decode latents [images, 4, h, w] by the model's VAE."""
        autoencoder = await self._autoencoders.get(model)
        pixels = await self._runtime.thread.run_async(lambda: autoencoder.decode_latents(latents))
        return DecodedLatents(pixels, self._origin(model, autoencoder))

    async def load_model(self, model: str) -> bool:
        """Bring a model's VAE into memory, and return True. Raises ModelUnavailable."""
        await self._autoencoders.bring(model)
        return True

    async def unload_model(self, model: str) -> bool:
        """Take a model's VAE out of memory; return whether they are still there."""
        return await self._autoencoders.unload(model)

    def origin(self) -> Origin:
        """Return the placement, and the weights of all VAEs that were loaded."""
        weights = {f"{model}/vae": vae.weights_hash for model, vae in self._autoencoders.made.items()}
        return self._runtime.origin(weights)

    def _origin(self, model: str, autoencoder: Autoencoder) -> Origin:
        return self._runtime.origin({f"{model}/vae": autoencoder.weights_hash})


class AnnotatorStage:
    """The stage that draws control maps, with OpenCV or a model."""

    def __init__(self, annotators: Annotators, runtime: Runtime) -> None:
        """`annotators` must have been loaded in the runtime's thread."""
        self._annotators = annotators
        self._runtime = runtime

    @classmethod
    def load(cls, catalogue: Catalogue, runtime: Runtime) -> AnnotatorStage:
        """Load the models that draw control maps. Raises ModelUnavailable."""
        return cls(runtime.thread.run(lambda: Annotators(catalogue.annotators, runtime.placement)), runtime)

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        """Draw the control map of an image [height, width, 3]. Raises NotSupported if no model draws this kind."""
        control_image = await self._runtime.thread.run_async(lambda: self._annotators.annotate(annotation, pixels))
        return Annotated(control_image, self._runtime.origin(self._annotators.weights(annotation.kind)))

    def origin(self) -> Origin:
        """Return the placement, and the weights of all models that draw control maps."""
        return self._runtime.origin(self._annotators.all_weights())


class UpscalerStage:
    """The stage that resizes images, with every upscaler of the catalogue."""

    def __init__(self, upscalers: Upscalers, runtime: Runtime) -> None:
        """`upscalers` must have been loaded in the runtime's thread."""
        self._upscalers = upscalers
        self._runtime = runtime

    @classmethod
    def load(cls, catalogue: Catalogue, runtime: Runtime) -> UpscalerStage:
        """Load every upscaler whose weight file exists. Raises ModelUnavailable if a file is corrupt."""
        return cls(runtime.thread.run(lambda: Upscalers(catalogue.upscalers, runtime.placement)), runtime)

    async def upscale(self, tasks: Sequence[UpscaleTask]) -> list[Upscaled]:
        """Resize images; those of one upscaler share network calls, and the thread runs other calls in between."""
        results = await self._runtime.thread.run_in_steps(self._upscalers.upscale(tasks))
        return [
            Upscaled(pixels, upscaler, self._runtime.origin(self._upscalers.weights(upscaler)))
            for pixels, upscaler in results
        ]

    def origin(self) -> Origin:
        """Return the placement, and the weights of all upscalers."""
        return self._runtime.origin(self._upscalers.all_weights())
