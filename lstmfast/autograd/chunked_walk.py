"""Layers in one direction, walked through chunk by chunk, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops import Options
from .chunks import Chunk

RowsOf = Callable[[Chunk], Tensor]  # the rows of a chunk that enter the layers


@dataclass(frozen=True, slots=True)
class ChunkedWalk:
    """States are those of the whole call, ``[L*D, B, .]``, of which a walk reads and writes its own. Everything is of
    the weights' dtype, but for rows, which are converted on their way in and out."""

    options: Options  # of the layers, but for batch_sizes
    chunks: Sequence[Chunk]  # in the walk's order
    reverse: bool
    runs: slice  # of the first dimension of states
    columns: slice  # of a row of output
    weights: Sequence[Tensor]
    mask: Tensor | None  # of dropout between these layers

    def forward(self, rows: RowsOf, output: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """Fills in output; turns the initial states into the final ones. Returns the states with which each chunk
        begins."""
        count = sum(chunk.sequences for chunk in self.chunks)
        borders = [s.new_empty((s[self.runs].shape[0], count, s.shape[-1])) for s in states]
        for chunk, border in self._with(borders):
            own = self._own(states, chunk)
            for kept, state in zip(border, own, strict=True):
                kept.copy_(state)
            self._run(chunk, rows, output, own)
        return borders

    def backward(
        self,
        rows: RowsOf,
        borders: Sequence[Tensor],
        d_output: Tensor | None,
        d_states: Sequence[Tensor],
        write_d_rows: Callable[[Chunk, Tensor], object] | None,
        wanted: Sequence[bool],
        wants_states: bool,
    ) -> list[Tensor | None]:
        """Turns the gradients of the final states into those of the initial ones, if these are wanted, and hands on
        those of rows. Returns those of the weights that are wanted, sums of float32 or more."""
        sums: list[Tensor | None] = [None] * len(self.weights)
        for chunk, border in reversed(list(self._with(borders))):
            goes_on = wants_states or chunk is not self.chunks[0]
            parts = self._run_back(chunk, rows, border, d_output, d_states, write_d_rows, wanted, goes_on)
            for i, part in enumerate(parts):
                if part is not None:
                    total = sums[i]
                    sums[i] = _full(part) if total is None else total.add_(part)
        return sums

    def _with(self, borders: Sequence[Tensor]) -> Iterator[tuple[Chunk, list[Tensor]]]:
        begin = 0
        for chunk in self.chunks:
            yield chunk, [border[:, begin : begin + chunk.sequences] for border in borders]
            begin += chunk.sequences

    def _own(self, states: Sequence[Tensor], chunk: Chunk) -> list[Tensor]:
        return [state[self.runs, : chunk.sequences] for state in states]

    def _call(self, chunk: Chunk, rows: RowsOf) -> tuple[Options, Tensor, Tensor | None]:
        mask = None if self.mask is None else self.mask[:, chunk.rows]
        return replace(self.options, batch_sizes=chunk.batch_sizes), self._in(chunk, rows(chunk)), mask

    def _in(self, chunk: Chunk, t: Tensor) -> Tensor:
        return chunk.in_time(t, self.reverse).to(self.weights[0].dtype)

    # One chunk, in functions of their own: their temporaries are gone before the next chunk makes its own.

    def _run(self, chunk: Chunk, rows: RowsOf, output: Tensor, states: Sequence[Tensor]) -> None:
        # As in backward, records and all, so that backward finds the very same numbers.
        options, input, mask = self._call(chunk, rows)
        result, *new, _, _ = options.forward(input, mask, (*states, *self.weights), True)
        output[chunk.rows][..., self.columns] = chunk.in_time(result, self.reverse)
        for state, value in zip(states, new, strict=False):  # without a private state an empty tensor stands for it
            state.copy_(value)

    def _run_back(
        self,
        chunk: Chunk,
        rows: RowsOf,
        border: Sequence[Tensor],
        d_output: Tensor | None,
        d_states: Sequence[Tensor],
        write_d_rows: Callable[[Chunk, Tensor], object] | None,
        wanted: Sequence[bool],
        goes_on: bool,
    ) -> list[Tensor | None]:
        options, input, mask = self._call(chunk, rows)
        tensors = (*border, *self.weights)
        output, _, _, hidden, reserve = options.forward(input, mask, tensors, True)
        own = self._own(d_states, chunk)
        d_rows = None if d_output is None else self._in(chunk, d_output[chunk.rows][..., self.columns])
        grads = (d_rows, *own, None)[:3]
        asked = (write_d_rows is not None, *(goes_on for _ in own), *wanted)
        d_input, *d_tensors = options.backward(grads, input, mask, (output, hidden, reserve), tensors, asked)
        if d_input is not None and write_d_rows is not None:
            write_d_rows(chunk, chunk.in_time(d_input, self.reverse))
        d_border, d_weights = options.split(d_tensors)
        if goes_on:
            for d, value in zip(own, d_border, strict=True):
                d.copy_(value)
        return d_weights


def _full(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
