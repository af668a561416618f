"""Compares lstmfast with torch.nn, or another peer, point by point: results first, then times taken in turn.

    python bench/bench.py quick                                  a first impression, under two minutes
    python bench/bench.py standard --out bench/results/x.json    the grid that the README's table is made from
    python bench/bench.py --shape 100x32x256x256x1+ --threads 1,2 --mode training
    python bench/bench.py scaling | memory | recompute | latency | dispatch | derivatives
    python bench/bench.py gpu --budget 150 --out x.json          on a GPU, as far as it gets in 150 s

A ratio is the peer's time (or memory) over ours: above 1, lstmfast is faster (or smaller). bench/README.md describes
the method and the fields of the result file. Exits with 1 if results differ, or a point failed, anywhere; with 2 if
nothing could be measured.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lstmfast_bench import comparison, dispatch, environment, memory, points, report, results, schedule
from lstmfast_bench.comparison import Effort
from lstmfast_bench.peers import PEERS, Unsupported
from lstmfast_bench.points import Point, Shape
from lstmfast_bench.sides import Mismatch
from tqdm import tqdm

import lstmfast
from lstmfast.autograd.chunks import chunk_steps


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    refusal = PEERS[options.peer].missing() if options.peer else None
    if refusal is not None:
        parser.error(f"--peer {options.peer} {refusal}")
    options.device = options.device or points.PRESETS[options.preset].device
    if options.device == "cuda":
        _check_cuda(parser)
    if options.preset == "latency" and options.mode is not None:
        parser.error("the preset latency has a mode of its own, streaming")
    if options.preset == "dispatch" and (options.variant not in (None, ["plain"]) or options.peer not in (None, "nn")):
        parser.error("the preset dispatch takes calls of torch.nn and lstmfast apart, in the variant plain only")
    chosen = choose(options)
    if not chosen:
        parser.error("no point is left: projections are of LSTM alone, and the variant lastloss is of training alone")

    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "schema": results.SCHEMA,
        "preset": options.preset,
        "effort": vars(effort_of(options)),
        "budget": options.budget if options.budget < math.inf else None,
        **environment.describe(options.device),
        "points": [],
        "cut": [],
        "skipped": [],
        "failures": [],
        "groups": [],
    }
    run(chosen, options, result)
    for kind in ("skipped", "failures"):
        for entry in result[kind]:
            print(f"{kind}: {entry['point']}: {entry['reason']}", file=sys.stderr)
    if result["cut"]:
        print(f"cut for time: {report.cut(result['cut'])}", file=sys.stderr)
    if result["points"]:
        print(f"\n{environment.one_line(result)}")
        print(report.summary(results.groups(result["points"])), end="")
    if options.out is not None:
        print(f"written to {options.out}")
    if result["failures"]:
        return 1
    return 0 if result["points"] else 2


def choose(options: argparse.Namespace) -> list[Point]:
    """The points that the options ask for."""
    preset = points.PRESETS[options.preset]
    most = torch.get_num_threads()
    if options.preset == "gpu":
        return _choose_gpu(options, options.threads[-1] if options.threads else most)
    cells, dtypes = options.cell or ["lstm"], options.dtype or ["float32"]
    variants = options.variant or ["plain"]
    shapes = options.shape or preset.shapes
    if options.device == "cuda" and options.preset == "standard" and not options.shape:
        shapes = points.STANDARD_CUDA
    modes = preset.modes if options.mode is None else _MODES[options.mode]
    # The GPU does not care how many threads the CPU has.
    both = options.preset == "standard" and options.device == "cpu"
    threads = options.threads or (sorted({1, most}) if both else [most])
    fixed = {
        "precision": options.precision or "highest",
        "device": options.device,
        "peer": options.peer or "nn",
        "metric": preset.metric,
    }
    if options.preset == "scaling":
        base = points.grid(shapes, cells, dtypes, variants, modes, threads[-1:], **fixed)
        return points.with_sweeps(base, options.threads or _powers_of_two(most))
    chosen = points.grid(shapes, cells, dtypes, variants, modes, threads, **fixed)
    if options.preset == "latency":  # the module, as the peer is called, and what is made for such calls
        chosen = [replace(p, callee=c) for p in chosen for c in ("module", "stream") if c == "module" or _streams(p)]
    if options.preset in ("memory", "recompute"):
        chosen = [replace(p, callee=c) for p in chosen for c in ("module", "recompute") if c == "module" or _is_cut(p)]
    return chosen


def _is_cut(point: Point) -> bool:
    """Whether recompute=True makes a difference."""
    shape = point.shape
    return point.mode == "training" and chunk_steps(shape.steps, shape.batch, point.device) < shape.steps


def _streams(point: Point) -> bool:
    return not point.shape.bidirectional and point.variant != "packed"


def _choose_gpu(options: argparse.Namespace, threads: int) -> list[Point]:
    """The schedule, or its kinds for other shapes; then what the other options leave of it."""
    parts = schedule.PARTS
    if options.shape:
        own = {"cells": options.cell, "variants": options.variant, "peers": [options.peer] if options.peer else None}
        given = {name: value for name, value in own.items() if value}
        parts = [schedule.Part("grid", options.shape, **given)]
    cells = [points.CELLS[cell] for cell in options.cell or points.CELLS]
    modes = points.MODES if options.mode is None else _MODES[options.mode]
    return [
        point
        for point in schedule.points(threads, options.device, parts)
        if point.cell in cells
        and point.mode in modes
        and (options.dtype is None or point.dtype in options.dtype)
        and (options.variant is None or point.variant in options.variant)
        and (options.peer is None or point.peer == options.peer)
        and (options.precision is None or point.precision == options.precision or point.dtype != "float32")
    ]


def run(chosen: Sequence[Point], options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Measures the points, prints a line for each, and fills in `result`, which is saved after every point."""
    effort = effort_of(options)
    budget = schedule.Budget(options.budget, time.monotonic)
    print(report.HEADER_GPU if options.device == "cuda" else report.HEADER)
    with _progress(chosen, unit="point") as bar:
        for point in bar:
            if not budget.allows(point):
                result["cut"].append({"point": str(point), "sweeps": list(point.sweeps)})
                continue
            bar.set_description(str(point))
            try:
                with _progress(total=effort.pairs, unit="pair", leave=False) as pairs:
                    records = measure(options.preset, point, effort, pairs.update)
            except Unsupported as error:
                result["skipped"].append({"point": str(point), "reason": str(error)})
            except (Mismatch, memory.ChildFailed) as error:
                result["failures"].append({"point": str(point), "reason": str(error)})
            else:
                result["points"] += records
                for record in records:
                    bar.write(report.line(record))
                sys.stdout.flush()
            result["groups"] = [group.as_json() for group in results.groups(result["points"])]
            if options.out is not None:
                results.save(result, options.out)
    if options.out is not None:
        results.save(result, options.out)  # with what was cut


def measure(preset: str, point: Point, effort: Effort, on_pair: Callable[[], Any]) -> list[results.Record]:
    if preset == "dispatch":
        return dispatch.measure(point, effort, on_pair)
    if preset == "memory":
        return [memory.measure(point, effort, on_pair)]
    return [comparison.measure(point, effort, on_pair)]


def effort_of(options: argparse.Namespace) -> Effort:
    preset = points.PRESETS[options.preset]
    return Effort(
        options.pairs or preset.pairs, options.min_time or preset.min_time, options.max_time or preset.max_time
    )


_MODES = {mode: (mode,) for mode in (*points.MODES, *points.DERIVATIVES)} | {"both": points.MODES}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("preset", nargs="?", choices=points.PRESETS, default="quick", help="default: %(default)s")
    add("--shape", metavar="TxBxIxHxL[+]", type=each(Shape.parse), help="instead of the preset's; + for two directions")
    add("--cell", type=each(_one_of(points.CELLS)), help=f"of {', '.join(points.CELLS)} (lstm)")
    add("--mode", choices=_MODES, help="default: the preset's, mostly both of the first two")
    add("--dtype", type=each(_one_of(points.ITEM_SIZES)), help=f"{', '.join(points.ITEM_SIZES)} (float32)")
    add("--variant", type=each(_one_of(points.VARIANTS)), help=f"{', '.join(points.VARIANTS)} (plain)")
    add("--threads", type=each(_at_least_one), help="default: torch's own count; for standard 1 and that")
    add("--device", choices=("cpu", "cuda"), help="default: cpu, but for the preset gpu")
    add(
        "--precision",
        choices=("highest", "high", "medium"),
        help="of float32 products, for both sides (highest)",
    )
    add("--peer", choices=PEERS, help="whom to compare with (nn: torch.nn)")
    add("--pairs", type=_at_least_one, help="of samples for each point (11, memory 3, latency 21, dispatch 31, gpu 7)")
    add("--min-time", type=float, metavar="S", help="least length of a sample (0.02; gpu 0.004)")
    add("--max-time", type=float, metavar="S", help="after which a point ends early (30, quick 3, gpu 0.6)")
    add("--budget", type=_seconds, default=math.inf, metavar="S", help="of the run: no point begins later than this")
    add("--out", type=Path, metavar="FILE.json", help="result file, written anew after every point")
    parser.epilog = "Options that take several values take them separated by commas."
    return parser


def each(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """For options that take several values."""

    def parse_all(text: str) -> list[Any]:
        try:
            return [parse(word) for word in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_all


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"'{text}' is none of {', '.join(names)}")
        return text

    return parse


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got '{text}'")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got '{text}'")
    return seconds


def _powers_of_two(most: int) -> list[int]:
    return sorted({*(2**k for k in range(most.bit_length())), most})


def _check_cuda(parser: argparse.ArgumentParser) -> None:
    if not torch.cuda.is_available():
        parser.error("--device cuda: torch.cuda.is_available() is False here")
    if not lstmfast.build_info()["cuda"]:
        parser.error("--device cuda: this build of lstmfast has no CUDA kernels")


def _progress(*arguments: Any, **options: Any) -> tqdm:
    # In a log file the lines of the points are progress enough.
    return tqdm(*arguments, disable=not sys.stderr.isatty(), dynamic_ncols=True, **options)


if __name__ == "__main__":
    sys.exit(main())
