"""Peak memory of a few training steps (or calls), each side in a process of its own.

What is measured is the resident set: the highest value during the steps less the value just before. Unlike torch's
allocation profiler it sees what oneDNN and the kernels allocate past torch's allocator, and unlike the profiler's sums
it is what a user's machine must have. The value before comes after one call with a tiny module of the same kind, so
that libraries, thread pools and code generated once for all do not count; weights and input do not count either.
On a GPU the same is taken from torch's caching allocator, through which cuDNN's workspaces go too.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import sides
from .comparison import Effort
from .points import Point, Shape
from .results import Record, fields_of, point_of
from .timing import Spread

STEPS = 2  # the second finds the gradients and the freed memory of the first
_TINY = Shape(2, 2, 8, 8, 1)


class ChildFailed(Exception):
    """A measuring process ended without a figure."""


def measure(point: Point, effort: Effort, on_pair: Callable[[], Any] = lambda: None) -> Record:
    """The point's record, in bytes. Raises as comparison.measure, and ChildFailed."""
    with sides.conditions(point):
        agreement = sides.compare(*sides.build(point))
    pairs = []
    for _ in range(effort.pairs):
        pairs.append([peak_in_child(point, side) for side in ("theirs", "ours")])
        on_pair()
    return fields_of(point) | {
        "ratio": Spread.of(theirs / ours for theirs, ours in pairs).as_json(),
        "theirs": Spread.of(theirs for theirs, _ in pairs).as_json(),
        "ours": Spread.of(ours for _, ours in pairs).as_json(),
        "pairs": len(pairs),
        "is_capped": False,
        "calls_per_sample": {"theirs": STEPS, "ours": STEPS},
        "agreement": agreement.as_json(),
        "gemm": None,
        "gpu": None,
        "reading": None,
    }


def peak_in_child(point: Point, side: str) -> int:
    """Bytes, at least one page. Raises ChildFailed."""
    command = [sys.executable, "-m", f"{__package__}.memory", side, json.dumps(fields_of(point))]
    path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))))
    finished = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildFailed(f"the process measuring {side} ended with {finished.returncode}: {last}")
    return max(int(finished.stdout), resource.getpagesize())


def peak(point: Point, side: str) -> int:
    """Bytes that the steps of one side need on top of its weights and input. To be called once in a process."""
    with sides.conditions(point):
        for shape, steps in ((_TINY, 1), (point.shape, STEPS)):
            pair = sides.build(replace(point, shape=shape), only=side)
            own = next(s for s in pair if s is not None)
            del pair
            before = _settled(point.device)
            own.repeat(steps)
    return _highest(point.device) - before


def _settled(device: str) -> int:
    """Bytes in use now, after giving back what is free; the highest value is counted from here on."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # glibc's
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM, proc(5)
    return _status("VmRSS")


def _highest(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}: peak memory can be measured on Linux only")


if __name__ == "__main__":
    print(peak(point_of(json.loads(sys.argv[2])), sys.argv[1]))
