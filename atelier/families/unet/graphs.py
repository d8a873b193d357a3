"""The two halves of a UNet as CUDA graphs, whose kernels are launched together and without Python.

A graph reads and writes the same memory in every run. So there is one for each number of rows and size of latents,
with tensors of its own into which calls are copied; missing rows are left as they are. The residuals of ControlNets
are added between the halves, in the memory that the second half reads.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from cachetools import LRUCache

from atelier.core.conditioning import TOKENS_PER_CHUNK
from atelier.families.unet.conditions import Conditions
from atelier.families.unet.halves import Encoded, decode_half, encode_half
from atelier.families.unet.tensors import conditions_of, tensors_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

#: Numbers of rows that graphs are made for; calls of other numbers take the next one.
NUMS_OF_ROWS = (2, 4, 8, 16, 24, 32)
_MAX_GRAPHS = 32
#: Calls of a size before its graphs are made, during which other requests wait; the default size has them at start.
_NUM_CALLS_BEFORE_CAPTURE = 50
_NUM_WARM_UPS = 3

Tensors = tuple[torch.Tensor, ...]
#: Runs a function once; returns one that runs its kernels again, in the same memory, and the tensors that they fill.
Capture = Callable[[Callable[[], Tensors]], tuple[Callable[[], None], Tensors]]
#: Number of rows, and latent height and width.
_Key = tuple[int, int, int]


def cuda_graph(call: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
    """Capture a function's kernels as a CUDA graph; see `Capture`."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_NUM_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    # Other threads of this process go on launching kernels meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        tensors = call()
    return graph.replay, tensors


class _Graphed:
    """The UNet for one number of rows and size of latents."""

    def __init__(self, unet: UNet2DConditionModel, capture: Capture, key: _Key, like: Conditions) -> None:
        num_rows, height, width = key
        bias = like.prompt_bias
        self._model_input = bias.new_zeros((num_rows, unet.config.in_channels, height, width))
        self._timesteps = bias.new_zeros(num_rows, dtype=torch.float32)
        groups = tuple(tuple(of.new_zeros((num_rows, *of.shape[1:])) for of in group) for group in tensors_of(like))
        self._conditions = conditions_of(groups, ())
        self._tensors = [tensor for group in groups for tensor in group]
        #: The conditions whose tensors were copied last; they hold the buffers of a batch.
        self._loaded: Callable[[], Conditions | None] = lambda: None

        def encode() -> Tensors:
            encoded = encode_half(unet, self._model_input, self._timesteps, self._conditions)
            return encoded.hidden_states, encoded.emb, *encoded.skips

        self._encode, (hidden_states, emb, *skips) = capture(encode)
        encoded = self._encoded = Encoded(hidden_states, emb, tuple(skips))
        self._decode, (self._noise_pred,) = capture(lambda: (decode_half(unet, encoded, self._conditions),))

    def encode(self, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions) -> Encoded:
        num_rows = len(model_input)
        if conditions is not self._loaded():
            given = [tensor for group in tensors_of(conditions) for tensor in group]
            torch._foreach_copy_([tensor[:num_rows] for tensor in self._tensors], given)
            self._loaded = weakref.ref(conditions)
        self._model_input[:num_rows].copy_(model_input)
        self._timesteps[:num_rows].copy_(timesteps)
        self._encode()
        encoded = self._encoded
        skips = tuple(skip[:num_rows] for skip in encoded.skips)
        return Encoded(encoded.hidden_states[:num_rows], encoded.emb[:num_rows], skips)

    def decode(self, num_rows: int) -> torch.Tensor:
        self._decode()
        return self._noise_pred[:num_rows].clone()


@dataclass(frozen=True, slots=True)
class _Running:
    """A call between its halves."""

    encoded: Encoded
    graphed: _Graphed


class GraphedUNet:
    """A UNet on a GPU. Calls with LoRAs, longer prompts or more rows run kernel by kernel. Not thread-safe."""

    def __init__(self, unet: UNet2DConditionModel, num_arrivals: Callable[[], int], capture: Capture) -> None:
        """`num_arrivals` returns how often the weights have come to the device: graphs hold their addresses."""
        self._unet = unet
        self._num_arrivals = num_arrivals
        self._capture = capture
        self._graphs: LRUCache[_Key, _Graphed] = LRUCache(_MAX_GRAPHS)
        self._arrival = num_arrivals()
        self._num_calls: Counter[_Key] = Counter()
        self._running: _Running | None = None

    def prepare(self, height: int, width: int, like: Conditions) -> None:
        """Make the graphs for latents of this size; `like` are conditions of any rows, of one chunk."""
        for num_rows in NUMS_OF_ROWS:
            self._graphs[num_rows, height, width] = _Graphed(
                self._unet, self._capture, (num_rows, height, width), like
            )

    def encode_half(self, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions) -> Encoded:
        """Run the UNet to the end of its middle block, on `model_input` [rows, 4, h, w] at `timesteps` [rows]."""
        graphed = self._graph_for(model_input, conditions)
        if graphed is None:
            return encode_half(self._unet, model_input, timesteps, conditions)
        self._running = _Running(graphed.encode(model_input, timesteps, conditions), graphed)
        return self._running.encoded

    def decode_half(self, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
        """Run the UNet from its middle block to `noise_pred`, [rows, 4, h, w]."""
        if self._running is None or self._running.encoded is not encoded:
            return decode_half(self._unet, encoded, conditions)
        return self._running.graphed.decode(len(encoded.hidden_states))

    def _graph_for(self, model_input: torch.Tensor, conditions: Conditions) -> _Graphed | None:
        if self._arrival != (arrival := self._num_arrivals()):
            self._graphs.clear()
            self._arrival, self._running = arrival, None
        num_rows, _, height, width = model_input.shape
        if conditions.adapters or conditions.num_tokens > TOKENS_PER_CHUNK or num_rows > NUMS_OF_ROWS[-1]:
            return None
        key = next(num for num in NUMS_OF_ROWS if num >= num_rows), height, width
        self._num_calls[key] += 1
        if key not in self._graphs and self._num_calls[key] >= _NUM_CALLS_BEFORE_CAPTURE:
            self._graphs[key] = _Graphed(self._unet, self._capture, key, conditions)
        return self._graphs.get(key)


def graph(unet: UNet2DConditionModel, num_arrivals: Callable[[], int]) -> GraphedUNet:
    """Return an installed UNet that runs as CUDA graphs; see `GraphedUNet`."""
    return GraphedUNet(unet, num_arrivals, cuda_graph)
