"""How a sequence is cut in time for `recompute`: pure functions of sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from ..ops import Options

# Rows (steps times sequences) that a chunk has at least. For each chunk the weights are packed three times and a
# gradient as large as they are is added, so more rows take less time: 768 in place of 512 some 5 to 15 % where it was
# tried (2000x8x128x256x2, noisy). With 1024 the C library's heap kept 40 MiB there of what had been freed.
CPU_ROWS = 512
# What a launch costs is told by steps, and products of tensor cores want many rows. Nothing has been measured.
GPU_STEPS, GPU_ROWS = 64, 2048
# csrc/cpu/plan.h: rows of a block, over which the CPU's backward adds up weight gradients before it stores them.
BLOCK_ROWS = 256


def chunk_steps(steps: int, batch: int, device_type: str) -> int:
    """Steps of every chunk but the last of a sequence of `steps` steps, `batch` sequences wide.

    Chunks as long as the square root of the sequence keep least: as many steps' states as steps' records. They have
    rows enough, are of about one length, and whole blocks of the CPU's, so that no block is cut. The number of threads
    plays no part: sums over chunks must not depend on it."""
    batch = max(batch, 1)
    rows, least = (CPU_ROWS, 1) if device_type == "cpu" else (GPU_ROWS, GPU_STEPS)
    block = max(BLOCK_ROWS // batch, 1)
    wanted = _round_up(max(math.isqrt(steps), _ceil_div(rows, batch), least), block)
    even = _ceil_div(steps, max(_ceil_div(steps, wanted), 1))
    return min(_round_up(even, block), steps)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, unit: int) -> int:
    return _ceil_div(a, unit) * unit


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of time."""

    rows: slice  # of the first dimension of rows: steps, or packed rows
    sequences: int  # that are active when it begins
    batch_sizes: Tensor | None  # of its steps, if packed


def cut(options: Options, input: Tensor) -> list[Chunk] | None:
    """The chunks of a call that the ops take, first to last; None where there is but one."""
    sizes = options.batch_sizes
    steps, batch = input.shape[:2] if sizes is None else (len(sizes), int(sizes[0]))
    length = chunk_steps(steps, batch, input.device.type)
    if batch == 0 or length >= steps:
        return None
    starts = range(0, steps, length)
    if sizes is None:
        return [Chunk(slice(t, min(t + length, steps)), batch, None) for t in starts]
    parts = sizes.split(length)
    ends = accumulate(int(part.sum()) for part in parts)
    return [Chunk(slice(end - int(part.sum()), end), int(part[0]), part) for part, end in zip(parts, ends, strict=True)]
