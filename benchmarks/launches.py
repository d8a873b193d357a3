"""What a denoising step asks of its device: kernels, copies from the host, and values that it waits for.

`python -m benchmarks.launches` counts them for the zoo's UNet and for one of SDXL's real size, without a GPU. The
UNet is on PyTorch's device `meta`, which computes nothing: reading a value there raises an error, so a step that ends
has waited for none. An operation of PyTorch that makes a tensor counts as one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.control.transports import InOrder
from atelier.core.conditioning import Conditioning
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import SamplerName, Sampling
from atelier.engine.batch import Batch
from atelier.engine.request import RunningRequest, Submitted
from atelier.engine.runner import Runner
from atelier.engine.splits import Splits
from atelier.families.unet.halves import decode_half, encode_half
from atelier.models.loading import Placement
from benchmarks.results import record
from benchmarks.sdxl_size import new_unet
from zoo.sdxl import new_unet as new_tiny_unet

_META = Placement("meta", "float32")


@dataclass(slots=True)
class Counts:
    """What was asked of the device."""

    kernels: int = 0
    #: Copies from the host, and those among them that wait for all kernels before them.
    copies: int = 0
    blocking_copies: int = 0


class _Counter(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given, made = _tensors((args, kwargs)), _tensors(result)
        if any(tensor.is_meta for tensor in made) and any(not tensor.is_meta for tensor in given):
            self._counts.copies += 1
            self._counts.blocking_copies += not kwargs.get("non_blocking", False)
        elif any(tensor.is_meta for tensor in made) and not func.is_view and not _is_one_of(made, given):
            self._counts.kernels += 1
        return result


def _tensors(of: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(of) if isinstance(leaf, torch.Tensor)]


def _is_one_of(made: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> bool:
    """Return whether a conversion has returned what it was given, without any work."""
    return any(one is other for one in made for other in given)


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what the body asks of the device `meta`."""
    counts = Counts()
    with torch.inference_mode(), _Counter(counts):
        yield counts


class _MetaUNet:
    """A UNet on `meta`, as a host holds it."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    @contextmanager
    def lease(self) -> Iterator[UNet2DConditionModel]:
        yield self.unet

    def beside(self, num_bytes: int) -> AbstractContextManager[None]:  # noqa: ARG002 there is always room
        return nullcontext()

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(())


class Steps:
    """A batch of guided requests on the device `meta`, one per sampler."""

    def __init__(
        self, unet: UNet2DConditionModel, size: Size, samplers: Sequence[SamplerName], *, num_chunks: int = 1
    ) -> None:
        self._entry: ModelEntry = read_catalogue().model("tiny-sdxl")
        self._runner = Runner(self._entry, _META, _MetaUNet(unet), InOrder({}))  # type: ignore[arg-type]
        self._unet, self._size, self._num_chunks = unet, size, num_chunks
        requests = [self._request(index, sampler) for index, sampler in enumerate(samplers)]
        num_rows = 2 * len(requests)
        self._batch = Batch(requests[0].key, self._runner.family, exact_width=1, splits=Splits({num_rows: 1, 1: 1}))
        with counted() as self.admission:
            for submitted in requests:
                running = self._runner.begin(submitted)
                self._batch.join(running, self._runner.prompts(running))
            _ = self._batch.packed

    @property
    def requests(self) -> list[RunningRequest]:
        return self._batch.requests

    def step(self) -> Counts:
        """Take a step. Raises NotImplementedError if it reads a value from the device."""
        with counted() as counts:
            self._runner.step(self._batch.requests, self._batch.packed)
        return counts

    def call(self) -> Counts:
        """Run the UNet alone on the batch's rows."""
        [of_rows] = self._batch.packed.calls
        rows = len(of_rows.image)
        model_input = torch.empty(rows, 4, self._size.latent_height, self._size.latent_width, device="meta")
        with counted() as counts:
            encoded = encode_half(self._unet, model_input, torch.empty(rows, device="meta"), of_rows.conditions)
            decode_half(self._unet, encoded, of_rows.conditions)
        return counts

    def _request(self, index: int, sampler: SamplerName) -> Submitted:
        one = self._runner.family.zero_embeds(self._unet)
        embeds = replace(one, prompt_embeds=np.tile(one.prompt_embeds, (self._num_chunks, 1)))
        request = DenoiseRequest(
            request_id=RequestId(f"req_{index}"),
            pass_=Pass(
                model=self._entry.id,
                size=self._size,
                seeds=(index,),
                sampling=Sampling(num_inference_steps=8, sampler=sampler),
                guidance_scale=5.0,
            ),
            conditioning=Conditioning(positive=embeds, negative=None),
        )
        return Submitted(request, emit=lambda _: None)


def meta_unet(*, is_tiny: bool) -> UNet2DConditionModel:
    """Create a UNet on `meta`: the zoo's, or one of SDXL's real size."""
    with torch.device("meta"):
        return (new_tiny_unet if is_tiny else new_unet)().eval()


def main() -> None:
    numbers: dict[str, float | int] = {}
    for name, is_tiny, side_px in (("zoo", True, 128), ("SDXL", False, 1024)):
        steps = Steps(meta_unet(is_tiny=is_tiny), Size(width=side_px, height=side_px), ["euler"] * 4)
        call, step = steps.call(), steps.step()
        numbers |= {
            f"{name}: kernels of a UNet call": call.kernels,
            f"{name}: kernels of a step beside it": step.kernels - call.kernels,
            f"{name}: copies from the host in a step": step.copies,
            f"{name}: copies in a step that wait": step.blocking_copies,
            f"{name}: kernels of an admission": round(steps.admission.kernels / len(steps.requests)),
            f"{name}: copies of an admission": round(steps.admission.copies / len(steps.requests)),
        }
    record("launches", numbers)


if __name__ == "__main__":
    main()
