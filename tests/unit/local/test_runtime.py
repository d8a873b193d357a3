from __future__ import annotations

import asyncio
import threading

from atelier.core.origin import Origin
from atelier.local.runtime import Runtime
from atelier.models.hashes import place_hash
from atelier.models.loading import Placement
from tests.small_models import CPU


def test_origins_name_the_place_that_bits_depend_on() -> None:
    origin = Runtime.start("models", CPU, num_threads=2).origin({"vae": "hash"})
    assert origin == Origin(place_hash(CPU, num_threads=2, width=1), {"vae": "hash"})
    others = (
        Runtime.start("models", CPU, num_threads=1),
        Runtime.start("models", Placement("cpu", "bfloat16"), num_threads=2),
    )
    assert len({origin.place, *(other.place for other in others)}) == 3


async def test_calls_of_a_runtime_run_in_one_thread_of_its_name() -> None:
    runtime = Runtime.start("upscaler", CPU, num_threads=1)
    calls = (runtime.thread.run_async(threading.current_thread) for _ in range(3))
    [thread] = set(await asyncio.gather(*calls))
    assert thread.name.startswith("upscaler")
