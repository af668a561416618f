"""How a sequence is cut in time for `recompute`: pure functions of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .. import ops
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

    def in_time(self, t: Tensor, reverse: bool) -> Tensor:
        """A chunk's rows as a walk in that direction meets them, each sequence from its own first to its own last. The
        same again undoes it."""
        if not reverse:
            return t
        if self.batch_sizes is None:
            return t.flip(0)
        return t.index_select(0, _reversal(self.batch_sizes).to(t.device))


def _reversal(sizes: Tensor) -> Tensor:
    """For every packed row the row of the same sequence that is as far from the sequence's end as it is from its
    beginning."""
    first_row = sizes.cumsum(0) - sizes
    step = torch.arange(len(sizes)).repeat_interleave(sizes)
    sequence = torch.arange(len(step)) - first_row[step]
    lengths = (sizes.unsqueeze(1) > torch.arange(int(sizes[0]))).sum(0)
    return first_row[lengths[sequence] - 1 - step] + sequence


def cut(options: Options, input: Tensor, tensors: Sequence[Tensor]) -> list[Chunk] | None:
    """The chunks of a call, first to last; None where there is but one, or something is wrong with an argument that
    would not show in chunks: then the call goes the usual way, which says what."""
    sizes = options.batch_sizes
    if input.dim() != (3 if sizes is None else 2):
        return None
    if sizes is None:
        steps, batch = input.shape[:2]
    elif _are_batch_sizes(sizes, input.shape[0]):
        steps, batch = len(sizes), int(sizes[0])
    else:
        return None
    if batch == 0 or steps == 0 or not _belong_to(options, input, batch, tensors):
        return None
    length = chunk_steps(steps, batch, input.device.type)
    if length >= steps:
        return None
    starts = range(0, steps, length)
    if sizes is None:
        return [Chunk(slice(t, min(t + length, steps)), batch, None) for t in starts]
    parts = sizes.split(length)
    ends = accumulate(int(part.sum()) for part in parts)
    return [Chunk(slice(end - int(part.sum()), end), int(part[0]), part) for part, end in zip(parts, ends, strict=True)]


def _are_batch_sizes(sizes: Tensor, rows: int) -> bool:
    return (
        sizes.dim() == 1
        and sizes.dtype == torch.int64
        and sizes.device.type == "cpu"
        and len(sizes) > 0
        and int(sizes[-1]) > 0
        and int(sizes.sum()) == rows
        and bool((sizes[1:] <= sizes[:-1]).all())
    )


def _belong_to(options: Options, input: Tensor, batch: int, tensors: Sequence[Tensor]) -> bool:
    """Whether types and devices are the input's, and states have as many runs, sequences and features as they must."""
    if type(options.num_layers) is not int or options.num_layers < 1 or type(options.bidirectional) is not bool:
        return False
    hx, weights = options.split(tensors)
    hidden_size, proj_size, directions = ops._sizes(
        options.cell, weights, options.has_biases, options.num_layers, options.bidirectional
    )
    sizes = (proj_size or hidden_size, hidden_size)[: ops.CELLS[options.cell]["states"]]
    shapes = [(options.num_layers * directions, batch, size) for size in sizes]
    return (not hx or [tuple(state.shape) for state in hx] == shapes) and all(
        t.dtype == input.dtype and t.device == input.device for t in tensors
    )
