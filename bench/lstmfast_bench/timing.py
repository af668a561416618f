"""Taking times: samples of several functions in turn, so that whatever else the machine does slows all alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Repeat = Callable[[int], Any]  # makes that many calls
Timer = Callable[[Repeat, int], float]  # seconds per call of so many

LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        if len(values) == 1:
            return cls(*values * 3)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def as_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Samples:
    """times: seconds per call, one list for each function, entry k of all lists being of round k.

    calls: how many calls a sample of each function consists of. is_capped: fewer rounds than asked for, for time."""

    times: list[list[float]]
    calls: list[int]
    is_capped: bool

    def spread(self, index: int) -> Spread:
        return Spread.of(self.times[index])

    def ratio(self, slow: int, fast: int) -> Spread:
        """Of the times in the same round."""
        return Spread.of(s / f for s, f in zip(self.times[slow], self.times[fast], strict=True))


def cpu_timer(repeat: Repeat, calls: int) -> float:
    began = time.perf_counter()
    repeat(calls)
    return (time.perf_counter() - began) / calls


def interleave(
    functions: Sequence[Repeat],
    timer: Timer,
    *,
    rounds: int,
    min_time: float,
    max_time: float = math.inf,
    on_round: Callable[[], Any] = lambda: None,
) -> Samples:
    """Samples A B A B ...: `rounds` of each, every sample at least about `min_time` seconds long.

    After `max_time` seconds it ends early, though not before LEAST_ROUNDS rounds."""
    calls = [_calibrate(function, timer, min_time) for function in functions]
    times: list[list[float]] = [[] for _ in functions]
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    try:
        for done in range(rounds):
            if done >= LEAST_ROUNDS and time.perf_counter() - began > max_time:
                break
            for index, function in enumerate(functions):
                times[index].append(timer(function, calls[index]))
            on_round()
    finally:
        if collects:
            gc.enable()
    return Samples(times, calls, is_capped=len(times[0]) < rounds)


def _calibrate(function: Repeat, timer: Timer, min_time: float) -> int:
    """Calls in a sample. Warms up on the way: caches, clock frequency, code generated at the first call."""
    function(1)
    calls = 1
    while (seconds := timer(function, calls)) * calls < min_time:
        calls *= 2
    return max(1, math.ceil(min_time / seconds))
