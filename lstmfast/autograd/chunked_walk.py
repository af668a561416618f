"""Layers in one direction, walked through chunk by chunk, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..ops import Options
from .chunks import Chunk
from .full_precision import HALF_TYPES

RowsOf = Callable[[Chunk], Tensor]  # the rows of a chunk that enter the layers


@dataclass(frozen=True, slots=True)
class ChunkedWalk:
    """States are those of the whole call, ``[L*D, B, .]``, of which a walk reads and writes its own. Everything is of
    the weights' dtype, but for rows, which are converted on their way in and out."""

    options: Options  # of the layers, but for batch_sizes and direction
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
        sums = [
            torch.zeros(w.shape if wants else 0, dtype=_full(w.dtype), device=w.device)
            for w, wants in zip(self.weights, wanted, strict=True)
        ]
        for chunk, border in reversed(list(self._with(borders))):
            goes_on = wants_states or chunk is not self.chunks[0]
            self._run_back(chunk, rows, border, d_output, d_states, write_d_rows, wanted, goes_on, sums)
        return [s if wants else None for s, wants in zip(sums, wanted, strict=True)]

    def _with(self, borders: Sequence[Tensor]) -> Iterator[tuple[Chunk, list[Tensor]]]:
        begin = 0
        for chunk in self.chunks:
            yield chunk, [border[:, begin : begin + chunk.sequences] for border in borders]
            begin += chunk.sequences

    def _own(self, states: Sequence[Tensor], chunk: Chunk) -> list[Tensor]:
        return [state[self.runs, : chunk.sequences] for state in states]

    def _arguments(self, chunk: Chunk, rows: RowsOf, states: Sequence[Tensor]) -> tuple:
        """What both ops take."""
        o, mask = self.options, None if self.mask is None else self.mask[:, chunk.rows]
        structure = (o.has_biases, o.num_layers, self.reverse, o.dropout)
        return o.cell, self._of_type(rows(chunk)), chunk.batch_sizes, states, self.weights, mask, *structure

    def _of_type(self, t: Tensor) -> Tensor:
        return t.to(self.weights[0].dtype)

    # One chunk, in functions of their own: their temporaries are gone before the next chunk makes its own.

    def _run(self, chunk: Chunk, rows: RowsOf, output: Tensor, states: Sequence[Tensor]) -> None:
        arguments = self._arguments(chunk, rows, states)
        with torch._C._AutoDispatchBelowAutograd():
            result, *new, _, _ = ops.forward_chunk(*arguments, self.options.float32_precision)
        output[chunk.rows][..., self.columns] = result
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
        sums: Sequence[Tensor],
    ) -> None:
        own = self._own(d_states, chunk)
        d_rows = None if d_output is None else self._of_type(d_output[chunk.rows][..., self.columns])
        grads = (d_rows, *own, None)[:3]
        asked = (write_d_rows is not None, *(goes_on for _ in own), *wanted)
        arguments, precision = self._arguments(chunk, rows, border), self.options.float32_precision
        with torch._C._AutoDispatchBelowAutograd():
            output, _, _, *saved = ops.forward_chunk(*arguments, precision)
            d_input, d_border = ops.backward_chunk(*grads, *arguments, output, *saved, asked, precision, sums)
        if write_d_rows is not None:
            write_d_rows(chunk, d_input)
        if goes_on:
            for d, value in zip(own, d_border, strict=True):
                d.copy_(value)


def _full(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF_TYPES else dtype
