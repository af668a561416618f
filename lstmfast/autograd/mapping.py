"""functorch's vmap: mapped copies of a call become one call where they share the weights, and one each where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..ops import Options


class Fold:
    """Mapped copies of a call as one call: the mapped dimension of size V becomes the inner part of the batch's, so
    that in a packed batch as well the sequences stay sorted by length."""

    def __init__(self, options: Options, size: int):
        self._size, self._packed = size, options.batch_sizes is not None
        self.options = options
        if options.batch_sizes is not None:
            self.options = replace(options, batch_sizes=options.batch_sizes * size)

    def _fold(self, t: Tensor | None, mapped: int | None, batch: int) -> Tensor | None:
        """The mapped dimension into dimension `batch` of what each copy sees."""
        if t is None:
            return None
        if mapped is None:
            t = t.unsqueeze(batch + 1).expand(*t.shape[: batch + 1], self._size, *t.shape[batch + 1 :])
        else:
            t = t.movedim(mapped, batch + 1)
        return t.flatten(batch, batch + 1)

    def _unfold(self, t: Tensor, batch: int) -> Tensor:
        return t.unflatten(batch, (t.shape[batch] // self._size, self._size)).movedim(batch + 1, 0)

    def rows(self, t: Tensor | None, mapped: int | None) -> Tensor | None:
        """``[T, B, .]``, or packed rows."""
        return self._fold(t, mapped, 0 if self._packed else 1)

    def stacked_rows(self, t: Tensor | None, mapped: int | None) -> Tensor | None:
        """``[L-1, T, B, .]``, or packed rows."""
        return self._fold(t, mapped, 1 if self._packed else 2)

    def states(self, t: Tensor | None, mapped: int | None) -> Tensor | None:
        """``[L*D, B, .]``."""
        return self._fold(t, mapped, 1)

    def unfolded_rows(self, t: Tensor) -> Tensor:
        return self._unfold(t, 0 if self._packed else 1)

    def unfolded_stacked_rows(self, t: Tensor) -> Tensor:
        return self._unfold(t, 1 if self._packed else 2)

    def unfolded_states(self, t: Tensor) -> Tensor:
        return self._unfold(t, 1)


def weights_are_mapped(options: Options, dims: Sequence[int | None]) -> bool:
    return any(dim is not None for dim in options.split(dims)[1])


def each(size: int, function: type[torch.autograd.Function], in_dims: Sequence, *args):
    """One call for each copy: with weights of their own they have no product in common."""
    results = []
    for i in range(size):
        own = [a.select(dim, i) if isinstance(dim, int) else a for a, dim in zip(args, in_dims, strict=True)]
        results.append(function.apply(*own))
    stacked = tuple(None if r[0] is None else torch.stack(r) for r in zip(*results, strict=True))
    return stacked, tuple(None if s is None else 0 for s in stacked)
