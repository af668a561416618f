"""Times every launch shape that the planner could have chosen for a call: does it choose well, and is its model right?

    python bench/candidates.py --shape 100x16x512x512x1 --dtype bfloat16 --out build/candidates.json

Forward alone, in inference, and the whole training step with the planner's forward and each backward. Every
candidate's result is compared with the planner's choice first. Sorted by the measured time: regime, microseconds a step
(of the whole call, the products over all steps included) beside the model's (of the recurrence alone), and what would
be gained over the planner's choice. A shape has one layer and one direction.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lstmfast_bench import cuda, environment, points, sides
from lstmfast_bench.points import Point, Shape
from lstmfast_bench.timing import Timer, cpu_timer, interleave

import bench
from lstmfast import _C

PLANNERS, GENERAL = -1, -2  # see cuda_plan() in lstmfast/_C.pyi
ALONE = (1, 1)  # directions and layers of a launch
AT_ONCE = 6  # candidates timed in turn with the planner's choice, so that a pair is never far apart
DEFAULT = "100x1x512x512x1,100x16x128x128x1,100x16x256x256x1,100x64x512x512x1,50x64x1024x1024x1"


@contextmanager
def chosen(forward: int = PLANNERS, backward: int = PLANNERS):
    _C.choose_cuda_plans(forward, backward)
    try:
        yield
    finally:
        _C.choose_cuda_plans()


def plan_of(point: Point, backward: bool, choice: int, gpu: int | str) -> dict[str, Any]:
    shape = point.shape
    sizes = (shape.steps, shape.batch, shape.input, shape.hidden, 0)
    return _C.cuda_plan(point.cell, point.dtype, *sizes, *ALONE, backward, point.precision != "highest", gpu, choice)


def sweep(point: Point, gpu: int | str, timer: Timer, effort: dict[str, Any], deadline: float) -> dict[str, Any]:
    """`candidates`, fastest first, of the point's last pass: backward in training. A candidate whose result is wrong
    has an `error` instead of a time. What `deadline` (time.monotonic) does not leave time for is counted in `cut`."""
    backward = point.mode == "training"
    planned = plan_of(point, backward, PLANNERS, gpu)
    found, waiting = [], []
    with sides.conditions(point):
        _, ours = sides.build(point, only="ours")

        def repeat(choice: int):
            def run(calls: int) -> None:
                with chosen(**{"backward" if backward else "forward": choice}):
                    ours.repeat(calls)

            return run

        outputs, gradients = ours.results()
        expected = [*outputs, *gradients]
        tolerance = max(sides.tolerances(point))
        for choice in (GENERAL, *range(planned["candidates"])):
            plan = plan_of(point, backward, choice, gpu)
            entry = {"choice": choice, "is_planned": plan["text"] == planned["text"], **plan}
            del entry["candidates"]
            found.append(entry)
            try:
                with chosen(**{"backward" if backward else "forward": choice}):
                    results = ours.results()
                if point.device == "cuda":
                    cuda.check_regime()
                pairs = zip([*results[0], *results[1]], expected, strict=True)
                worst = max(sides.relative_error(a, b) for a, b in pairs)
            except RuntimeError as reason:
                entry["error"] = str(reason)
                continue
            entry["difference"] = worst
            if not worst <= tolerance:
                entry["error"] = f"differs by {worst:.2e} of its norm, more than {tolerance:.0e}"
            else:
                waiting.append(entry)
        cut = 0
        for start in range(0, len(waiting), AT_ONCE):
            some = waiting[start : start + AT_ONCE]
            if time.monotonic() > deadline:
                cut += len(some)
                continue
            samples = interleave([repeat(PLANNERS), *(repeat(entry["choice"]) for entry in some)], timer, **effort)
            for index, entry in enumerate(some, 1):
                entry["seconds"] = samples.spread(index).as_json()
                entry["gain"] = samples.ratio(0, index).as_json()
    found.sort(key=lambda entry: -entry["gain"]["median"] if "gain" in entry else math.inf)
    best = found[0]["gain"]["median"] if "gain" in found[0] else None
    return {
        "shape": str(point.shape),
        "dtype": point.dtype,
        "precision": point.precision,
        "mode": point.mode,
        "planned": planned["text"],
        "best_gain": best,
        "cut": cut,
        "candidates": found,
    }


def lines(result: dict[str, Any], most: int = 12) -> list[str]:
    """The fastest, the planner's choice, and what is wrong."""
    steps = Shape.parse(result["shape"]).steps
    title = f"{result['shape']} {result['dtype']} {result['precision']} {result['mode']}"
    text = [f"{title}: {len(result['candidates'])} candidates, {result['cut']} of them cut for time"]
    for rank, entry in enumerate(result["candidates"]):
        mark = "*" if entry["is_planned"] else " "
        if "error" in entry:
            text.append(f"  {mark} WRONG: {entry['error']}: {entry['text']}")
        elif "gain" in entry and (rank < most or entry["is_planned"]):
            measured = entry["seconds"]["median"] * 1e6 / steps
            times = f"{measured:8.2f} us a step, model {entry['microseconds']:8.2f}"
            text.append(f"  {mark} {entry['gain']['median']:5.2f} {times}  {entry['text'].rsplit(';', 1)[0]}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", type=bench.each(Shape.parse), default=bench.each(Shape.parse)(DEFAULT), metavar="TxBxIxHx1")
    add("--cell", choices=points.CELLS, default="lstm")
    add("--dtype", type=bench.each(str), default=["bfloat16"])
    add("--precision", choices=("highest", "high"), default="high", help="of float32 products (%(default)s: TF32)")
    add("--device", choices=("cpu", "cuda"), default="cuda")
    add("--gpu", help="plan for this GPU instead of the one that is there; with --device cpu, for tests")
    add("--pairs", type=int, default=5)
    add("--min-time", type=float, default=0.002, metavar="S")
    add("--budget", type=float, default=math.inf, metavar="S", help="seconds after which nothing more is timed")
    add("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch.cuda.is_available() is False here")
    if any(shape.layers > 1 or shape.bidirectional for shape in options.shape):
        parser.error("a shape has one layer and one direction here")
    gpu = options.gpu or (torch.cuda.current_device() if options.device == "cuda" else "H200")
    timer = cpu_timer if options.device == "cpu" else cuda.ColdTimer()
    deadline = time.monotonic() + options.budget
    effort = {"rounds": options.pairs, "min_time": options.min_time}
    file = {"schema": 1, **environment.describe(options.device), "sweeps": []}
    wrong = False
    for shape in options.shape:
        for dtype in options.dtype:
            for mode in points.MODES:
                point = Point(shape, points.CELLS[options.cell], mode, 1, dtype, device=options.device)
                result = sweep(replace(point, precision=options.precision), gpu, timer, effort, deadline)
                file["sweeps"].append(result)
                print("\n".join(lines(result)), flush=True)
                wrong |= any("error" in entry for entry in result["candidates"])
                if options.out is not None:
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(file, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
