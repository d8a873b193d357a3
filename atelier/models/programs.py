"""Programs of TorchScript, which run on the CPU without Python and give the bits of the module that was traced."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

#: PyTorch traces one model at a time in a process.
TRACING = ThreadPoolExecutor(1, "trace", initializer=torch.set_num_threads, initargs=(1,))


def traced(module: torch.nn.Module, example: tuple[object, ...]) -> torch.jit.ScriptModule:
    """Trace a module. Called in `TRACING`."""
    with warnings.catch_warnings():
        # Of branches by shape, which tests compare, and of TorchScript's deprecation.
        warnings.simplefilter("ignore")
        program: torch.jit.ScriptModule = torch.jit.trace(module, example, check_trace=False)
        return program


def run(program: torch.jit.ScriptModule, *inputs: object) -> Any:
    """Run a program as it was traced; TorchScript would fuse operations otherwise, which changes bits."""
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        return program(*inputs)
