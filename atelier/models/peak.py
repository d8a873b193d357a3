"""The most memory that a call takes at once, measured while it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

#: Name of the profiler's events of memory that is taken or freed.
_MEMORY = "[memory]"


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Run a call; return by how many bytes the tensors in memory grew at most.

    On the CPU this takes several times as long as the call, and sees only the memory that the calling thread takes.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        call()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == _MEMORY]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes), default=0)
