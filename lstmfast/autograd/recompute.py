"""Long sequences in little memory: forward keeps the states at the borders of chunks of time; backward goes from the
last chunk to the first, and runs each one's forward again before its backward.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016; for recurrent networks Gruslys et al.,
Memory-Efficient Backpropagation Through Time, NeurIPS 2016. Theirs fits chunks to a given memory, here they are of one
length.

A stack in one direction is cut in time as a whole, and the outputs of its lower layers are not kept either. With two
directions a layer needs the whole sequence of the one below: each direction of each layer is then a walk of its own,
and the lower layers' outputs are kept. A stack that is cut as a whole is walked back as a whole, though its lowest
layers may learn nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import ops
from ..ops import Options
from .chunked_walk import ChunkedWalk, RowsOf
from .chunks import Chunk
from .fallback import reference_gradient
from .full_precision import HALF_TYPES
from .functions import gradient
from .torch_state import asked_for, is_batched, is_recorded

COMPUTES_HALF_TYPES_IN_FLOAT32 = ("cpu",)  # devices


class RecomputeFunction(torch.autograd.Function):
    """The op with its gradient, chunk by chunk. Inputs: options, chunks, input, dropout mask, *hx, *weights."""

    @staticmethod
    def forward(ctx, options: Options, chunks: Sequence[Chunk], input: Tensor, mask: Tensor | None, *tensors: Tensor):
        output, states, kept = _Network(options, chunks, input, mask, tensors).forward()
        ctx.save_for_backward(input, mask, *tensors, *kept)
        ctx.options, ctx.chunks, ctx.arguments = options, chunks, len(tensors)
        ctx.set_materialize_grads(False)
        return output, *states

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        input, mask, *saved = ctx.saved_tensors
        tensors, kept = saved[: ctx.arguments], saved[ctx.arguments :]
        options: Options = ctx.options
        _, _, wanted_input, _, *wanted_tensors = asked_for(ctx.needs_input_grad, (False, False, True, mask is not None))
        wanted = (wanted_input, *wanted_tensors)
        grads = (*grads, None)[:3]
        if all(g is None for g in grads):
            return None, None, None, None, *(None for _ in tensors)
        if any(is_batched(g) for g in grads if g is not None):
            d_input, *d_tensors = reference_gradient(options, grads, input, mask, tensors, wanted)
        elif is_recorded():
            # Second derivatives need what a whole call saves, and go on as those of any other.
            output, _, _, hidden, reserve = options.forward(input, mask, tensors, True)
            d_input, *d_tensors = gradient(options, grads, input, mask, (output, hidden, reserve), tensors, wanted)
        else:
            network = _Network(options, ctx.chunks, input, mask, tensors)
            d_input, *d_tensors = network.backward(kept, grads, wanted)
        return None, None, d_input, None, *d_tensors


@dataclass(frozen=True, slots=True)
class _Level:
    """Layers that are walked through together, and the walks: one for each direction."""

    walks: Sequence[ChunkedWalk]
    weights: Sequence[slice]  # of the call's, by walk


class _Network:
    """All layers of a call. On the CPU half types are computed in float32, as the kernels do within a call: neither the
    states at a border nor the sums over chunks are rounded to 16 bits. On a GPU, whose products are to run on 16 bits,
    the states are, and each chunk's part of a bias's gradient; the sums over chunks are of float32 there too."""

    def __init__(
        self,
        options: Options,
        chunks: Sequence[Chunk],
        input: Tensor,
        mask: Tensor | None,
        tensors: Sequence[Tensor],
    ):
        self.options, self.input, self.mask = options, input, mask
        self.sequences = chunks[0].sequences
        self.hx, weights = options.split(tensors)
        hidden_size, proj_size, directions = ops._sizes(
            options.cell, weights, options.has_biases, options.num_layers, options.bidirectional
        )
        self.runs, width = options.num_layers * directions, proj_size or hidden_size
        self.width = directions * width
        self.state_sizes = (width, hidden_size) if options.has_cell_state else (width,)
        self.dtype, precision = input.dtype, options.float32_precision
        if input.device.type in COMPUTES_HALF_TYPES_IN_FLOAT32 and input.dtype in HALF_TYPES:
            # What the kernels do with the type where there are AMX tiles; elsewhere the precision means nothing.
            self.dtype, precision = torch.float32, "medium" if input.dtype == torch.bfloat16 else "highest"
        count = 1 if options.bidirectional else options.num_layers  # layers of a level
        call = replace(
            options,
            num_layers=count,
            bidirectional=False,
            dropout=0.0 if options.bidirectional else options.dropout,
            states=len(self.state_sizes),
            float32_precision=precision,
        )
        per_run = len(weights) // self.runs
        own_mask = None if options.bidirectional else mask
        self.levels = []  # from the bottom up
        for first in range(0, self.runs, count * directions):
            walks, places = [], []
            for direction in range(directions):
                runs = slice(first + direction, first + direction + count)
                place = slice(runs.start * per_run, runs.stop * per_run)
                own = [w.to(self.dtype) for w in weights[place]]
                columns = slice(direction * width, (direction + 1) * width)
                order = chunks[::-1] if direction else chunks
                walks.append(ChunkedWalk(call, order, direction == 1, runs, columns, own, own_mask))
                places.append(place)
            self.levels.append(_Level(walks, places))

    def forward(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Returns (output, final states, what backward needs): the lower levels' outputs, and each walk's borders."""
        states = self._states(self.hx)
        outputs: list[Tensor] = []
        borders: list[Tensor] = []
        for i, level in enumerate(self.levels):
            rows, output = self._rows_into(i, outputs), self._empty_rows(self.width)
            for walk in level.walks:
                borders += walk.forward(rows, output, states)
            outputs.append(output)
        return outputs.pop(), [s.to(self.input.dtype) for s in states], [*outputs, *borders]

    def backward(
        self, kept: Sequence[Tensor], grads: Sequence[Tensor | None], wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients of input, *hx, *weights, None where not wanted; grads are those of output, h_n and c_n."""
        lower = len(self.levels) - 1
        outputs, borders = kept[:lower], list(kept[lower:])
        wants_input, (wanted_hx, wanted_weights) = wanted[0], self.options.split(wanted[1:])
        wants_hx = any(wanted_hx)
        below = [wants_input]  # whether the gradient of a level's input is needed
        for level in self.levels:
            below.append(below[-1] or wants_hx or any(any(wanted_weights[place]) for place in level.weights))
        d_rows, d_states = grads[0], self._states(grads[1:])
        d_weights: list[Tensor | None] = [None] * len(wanted_weights)
        for i in range(lower, -1, -1):
            if not below[i + 1]:
                break
            level, rows, d_output = self.levels[i], self._rows_into(i, outputs), d_rows
            d_rows = self._empty_rows(self.width if i else self.input.shape[-1]) if below[i] else None
            of_walk = len(self.state_sizes)
            own, borders = borders[-of_walk * len(level.walks) :], borders[: -of_walk * len(level.walks)]
            for j, (walk, place) in enumerate(zip(level.walks, level.weights, strict=True)):
                d_weights[place] = walk.backward(
                    rows,
                    own[j * of_walk : (j + 1) * of_walk],
                    d_output,
                    d_states,
                    _writer(d_rows, adds=j > 0),
                    wanted_weights[place],
                    wants_hx,
                )
            if i > 0 and d_rows is not None and self.mask is not None:
                d_rows.mul_(self.mask[i - 1]).mul_(self._scale())
        d_hx = [d.to(self.input.dtype) if w else None for d, w in zip(d_states, wanted_hx, strict=False)]
        of_type = [None if d is None else d.to(self.input.dtype) for d in d_weights]
        return [d_rows if wants_input else None, *d_hx, *of_type]

    def _states(self, given: Sequence[Tensor | None]) -> list[Tensor]:
        """A copy to work on, zeros for what is not given."""
        shapes = [(self.runs, self.sequences, size) for size in self.state_sizes]
        states = [torch.zeros(shape, dtype=self.dtype, device=self.input.device) for shape in shapes]
        for state, value in zip(states, given, strict=False):
            if value is not None:
                state.copy_(value)
        return states

    def _empty_rows(self, width: int) -> Tensor:
        return self.input.new_empty((*self.input.shape[:-1], width))

    def _rows_into(self, level: int, outputs: Sequence[Tensor]) -> RowsOf:
        if level == 0:
            return lambda chunk: self.input[chunk.rows]
        below, mask = outputs[level - 1], None if self.mask is None else self.mask[level - 1]
        if mask is None:
            return lambda chunk: below[chunk.rows]
        return lambda chunk: (below[chunk.rows] * mask[chunk.rows]).mul_(self._scale())

    def _scale(self) -> float:
        return 1 / (1 - self.options.dropout) if self.options.dropout < 1 else 0.0


def _writer(to: Tensor | None, adds: bool):
    if to is None:
        return None
    return (lambda chunk, d: to[chunk.rows].add_(d)) if adds else (lambda chunk, d: to[chunk.rows].copy_(d))
