"""One point measured: results compared, then times in turn, and what they mean beside the rates of the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import cuda, gpu, sides
from .points import Point
from .rates import Rates
from .results import Record, fields_of
from .timing import Repeat, Samples, Spread, Timer, cpu_timer, interleave


@dataclass(frozen=True)
class Effort:
    """How much is measured at a point; see timing.interleave."""

    pairs: int
    min_time: float
    max_time: float

    def samples(self, repeats: Sequence[Repeat], timer: Timer, on_round: Callable[[], Any]) -> Samples:
        return interleave(
            repeats, timer, rounds=self.pairs, min_time=self.min_time, max_time=self.max_time, on_round=on_round
        )


def timers_of(point: Point) -> tuple[Timer, Timer]:
    """(for calls of modules, for the machine's rates). On a GPU a call finds L2 as another layer left it, but for a
    stream of steps, in which nothing comes between."""
    if point.device == "cpu":
        return cpu_timer, cpu_timer
    return cuda.warm_timer if point.mode == "streaming" else cuda.ColdTimer(), cuda.warm_timer


def measure(point: Point, effort: Effort, on_pair: Callable[[], Any] = lambda: None) -> Record:
    """The point's record. Raises peers.Unsupported, and sides.Mismatch before anything is timed."""
    timer, rate_timer = timers_of(point)
    with sides.conditions(point):
        theirs, ours = sides.build(point)
        agreement = sides.compare(theirs, ours)
        rates = Rates(point, rate_timer, effort.min_time / 2) if point.is_of_calls else None
        if rates is not None:
            rates.sample()
        samples = effort.samples([theirs.repeat, ours.repeat], timer, on_pair)
        if rates is not None:
            rates.sample()
    beside = {
        "gemm": _gemm(point, rates, samples.spread(0), samples.spread(1)),
        "gpu": _gpu(point, samples),
        "reading": _reading(point, rates, samples.spread(0), samples.spread(1)),
    }
    return record_of(point, samples, 1, agreement) | beside


def record_of(point: Point, samples: Samples, ours: int, agreement: sides.Agreement) -> Record:
    """Of the first function's times, which are the peer's, over those of the function `ours`."""
    return fields_of(point) | {
        "ratio": samples.ratio(0, ours).as_json(),
        "theirs": samples.spread(0).as_json(),
        "ours": samples.spread(ours).as_json(),
        "pairs": len(samples.times[0]),
        "is_capped": samples.is_capped,
        "calls_per_sample": {"theirs": samples.calls[0], "ours": samples.calls[ours]},
        "agreement": agreement.as_json(),
        "gemm": None,
        "gpu": None,
        "reading": None,
    }


def _gpu(point: Point, samples: Samples) -> Record | None:
    if point.device != "cuda" or not point.is_of_calls:
        return None
    return gpu.figures(point, gpu.Gpu.present(), samples.spread(1).median, samples.ratio(0, 1).median)


def _gemm(point: Point, rates: Rates | None, theirs: Spread, ours: Spread) -> Record | None:
    """Arithmetic of both sides: FLOP/s, and as shares of what torch.mm of `shape` (M, N, K) reached."""
    if rates is None:
        return None
    return {
        "flops": point.flops,
        "shape": list(rates.gemm_shape),
        "flops_per_second": rates.gemm_flops,
        "theirs_flops_per_second": point.flops / theirs.median,
        "ours_flops_per_second": point.flops / ours.median,
        "theirs_share": point.flops / theirs.median / rates.gemm_flops,
        "ours_share": point.flops / ours.median / rates.gemm_flops,
    }


def _reading(point: Point, rates: Rates | None, theirs: Spread, ours: Spread) -> Record | None:
    """Recurrent weights read per second, and as shares of what reading as many bytes over and over reached.

    Every step needs all of them, once forward and once backward. A share above 1 shows that they were kept in a nearer
    level of cache, or registers, from step to step."""
    if rates is None or rates.read_bytes is None:
        return None
    read = point.recurrent_weight_bytes * point.shape.steps * (2 if point.mode == "training" else 1)
    return {
        "weight_bytes": point.recurrent_weight_bytes,
        "bytes_per_second": rates.read_bytes,
        "theirs_share": read / theirs.median / rates.read_bytes,
        "ours_share": read / ours.median / rates.read_bytes,
    }
