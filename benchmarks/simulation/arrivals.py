"""When requests arrive, and what they ask for."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from atelier.core.priority import Priority

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request that arrives."""

    arrival_s: float
    side: int = 128
    num_steps: int = 20
    num_images: int = 1
    is_guided: bool = True
    priority: Priority = "standard"
    #: Seconds that the request has; None if it has no deadline.
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """What requests ask for: one of each tuple, at random."""

    sides: tuple[int, ...] = (128,)
    nums_of_steps: tuple[int, ...] = (20,)
    nums_of_images: tuple[int, ...] = (1,)
    is_guided: tuple[bool, ...] = (True,)
    priorities: tuple[Priority, ...] = ("standard",)

    def arrival(self, arrival_s: float, random: Random) -> Arrival:
        """Draw a request."""
        return Arrival(
            arrival_s=arrival_s,
            side=random.choice(self.sides),
            num_steps=random.choice(self.nums_of_steps),
            num_images=random.choice(self.nums_of_images),
            is_guided=random.choice(self.is_guided),
            priority=random.choice(self.priorities),
        )


EQUAL = Mix()
MIXED = Mix((128, 192), (10, 15, 20, 25, 30), (1, 2), (True, True, True, False))


def poisson(mix: Mix, rate: float, duration_s: float, random: Random) -> Iterator[Arrival]:
    """Yield requests that arrive independently, `rate` a second."""
    now_s = 0.0
    while (now_s := now_s + random.expovariate(rate)) < duration_s:
        yield mix.arrival(now_s, random)


def bursty(mix: Mix, rate: float, duration_s: float, random: Random) -> Iterator[Arrival]:
    """Yield requests that come in bursts of ten seconds on average, at five times the rate, with pauses between."""
    now_s, burst_s, factor = 0.0, 10.0, 5
    while now_s < duration_s:
        end_s = now_s + random.expovariate(1 / burst_s)
        while (now_s := now_s + random.expovariate(factor * rate)) < min(end_s, duration_s):
            yield mix.arrival(now_s, random)
        now_s = end_s + random.expovariate(1 / ((factor - 1) * burst_s))


def daily(mix: Mix, rate: float, duration_s: float, random: Random) -> Iterator[Arrival]:
    """Yield requests at a rate that swings between a fifth and nine fifths of its mean in the course of a day."""
    now_s, peak = 0.0, 1.8 * rate
    while (now_s := now_s + random.expovariate(peak)) < duration_s:
        if random.random() * peak < rate * (1 - 0.8 * math.cos(2 * math.pi * now_s / _DAY_S)):
            yield mix.arrival(now_s, random)


def from_file(file: Path) -> Iterator[Arrival]:
    """Yield the requests of a CSV file, whose columns are named as the fields of `Arrival`; most may be absent.

    Raises ValueError if a line is not a request.
    """
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            deadline_s = row.get("deadline_s")
            yield Arrival(
                arrival_s=float(row["arrival_s"]),
                side=int(row.get("side") or 128),
                num_steps=int(row.get("num_steps") or 20),
                num_images=int(row.get("num_images") or 1),
                is_guided=(row.get("is_guided") or "true").lower() == "true",
                priority=row.get("priority") or "standard",
                deadline_s=float(deadline_s) if deadline_s else None,
            )


PROCESSES = {"poisson": poisson, "bursty": bursty, "daily": daily}
