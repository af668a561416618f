"""Double backward on the CPU: the linearised walks of `derivatives.py` in compiled code.

Beside `derivatives.Run` this one spares the work that the call has done already. Gates and private state come from what
the call saved, instead of from its pre-activations; the gradient and its tangent walk back together, as pairs of rows,
so that a step is one product with W_hh; and the cell runs on dual numbers (csrc/cpu/tangents.inl), so that no Jacobian
is written down. It records nothing: what is to be differentiated or transformed further takes derivatives.py's way.

Pairs: of each step, the rows of all its sequences twice, first values and then tangents.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..ops import Options, gradient_tangent_walk, tangent_walk
from .derivatives import Stack, Walk, Weights, or_zeros, products

CPU_HAS_WALKS = torch._C._dispatch_has_kernel_for_dispatch_key("lstmfast::tangent_walk", "CPU")


class FusedRun:
    """One layer in one direction about the values of a call: as much of `derivatives.Run` as is needed."""

    def __init__(
        self,
        cell: str,
        walk: Walk,
        x: Tensor,
        h: Tensor,
        h0: Tensor,
        c0: Tensor | None = None,
        *,
        w: Weights,
        reserve: Tensor,
        batch_sizes: Tensor | None,
    ):
        self.walk, self.x, self.h, self.h0, self.c0 = walk, x, h, h0.contiguous(), c0
        self.w = w._replace(hh=w.hh.contiguous(), hr=None if w.hr is None else w.hr.contiguous())
        self._cell, self._reserve, self._layout = cell, reserve, (batch_sizes, walk.reverse)
        self.c0 = None if c0 is None else c0.contiguous()

    def tangent(self, dx: Tensor | None, dh0: Tensor | None, dc0: Tensor | None, dw: Weights) -> None:
        """As Run.tangent; computes d_h [R, O] and d_c [R, H]."""
        w = self.w
        d_pre = products((dx, w.ih), (self.x, dw.ih), (self.h_before if dw.hh is not None else None, dw.hh))
        if d_pre is None:
            d_pre = self.x.new_zeros(self.x.shape[0], w.hh.shape[0])
        for bias in (dw.b_ih, dw.b_hh):
            d_pre = d_pre if bias is None else d_pre.add_(bias)
        self.d_x, self.d_w = dx, dw
        self._d_h0 = or_zeros(dh0, self.h0).contiguous()
        self._d_c0 = None if dc0 is None else dc0.contiguous()
        self._d_pre = d_pre
        self.d_h, self._d_m, self._m, self.d_c = tangent_walk(
            self._cell, d_pre, *self._layout, self._reserve, w.hh, w.hr, dw.hr, self.c0, self._d_h0, self._d_c0
        )

    @property
    def h_before(self) -> Tensor:
        return self.walk.previous(self.h, self.h0)

    def gradient(self, by_h: Tensor, by_h_n: Tensor, by_c_n: Tensor) -> tuple[Tensor, Tensor]:
        """by_h: pairs [2R, O], overwritten; by_h_n and by_c_n: [2, B, .], values and tangents. Computes pairs of the
        gradients of the gates [2R, G*H] and of h (in by_h); returns the tangents of the gradients of h0 and c0."""
        self._by_h = by_h
        w, d_w = self.w, self.d_w
        self.by_gates, by_h0, by_c0 = gradient_tangent_walk(
            self._cell, by_h, self._d_pre, self.d_c, *self._layout, self._reserve,
            w.hh, d_w.hh, w.hr, d_w.hr, self.c0, self._d_c0, by_h_n, by_c_n,
        )  # fmt: skip
        return by_h0[1], by_c0[1]

    def by_x(self) -> Tensor:
        """Pairs of the gradients of x, [2R, I]."""
        by_x = self.by_gates @ self.w.ih
        if self.d_w.ih is not None:
            values, _ = self.walk.halves(self.by_gates)
            _, tangents = self.walk.halves(by_x)
            by_x = self.walk.pairs(self.walk.halves(by_x)[0], torch.addmm(tangents, values, self.d_w.ih))
        return by_x

    def by_weights(self, wanted: Weights) -> Weights:
        """Tangents of the gradients of the weights, None where not wanted."""
        walk, bias = self.walk, None
        if wanted.b_ih or wanted.b_hh:
            ones = self.x.new_ones(self.x.shape[0], 1)
            bias = self.by_gates.t().mv(walk.pairs(torch.zeros_like(ones), ones).squeeze(1))
        by_hh = None
        if wanted.hh:
            d_h_before = walk.previous(self.d_h, self._d_h0)
            by_hh = self.by_gates.t() @ walk.pairs(d_h_before, self.h_before)
        return Weights(
            self._by_w_ih() if wanted.ih else None,
            by_hh,
            bias if wanted.b_ih else None,
            bias if wanted.b_hh else None,
            self._by_h.t() @ walk.pairs(self._d_m, self._m) if wanted.hr else None,
        )

    def _by_w_ih(self) -> Tensor:
        # By the product rule: a tangent meets a value.
        if self.d_x is None:
            return self.walk.halves(self.by_gates)[1].t() @ self.x
        return self.by_gates.t() @ self.walk.pairs(self.d_x, self.x)


class FusedStack(Stack):
    """`derivatives.Stack` over what a call saved: (output, hidden, reserve)."""

    layers: list[list[FusedRun]]

    def __init__(
        self,
        options: Options,
        input: Tensor,
        mask: Tensor | None,
        tensors: Sequence[Tensor],
        saved: tuple[Tensor, Tensor, Tensor],
    ):
        *saved, self._reserve = saved
        super().__init__(options, input, mask, tensors, tuple(saved), None)

    def _run(self, index: int, walk: Walk, x: Tensor, h: Tensor, initial: Sequence[Tensor], w: Weights) -> FusedRun:
        sizes = self.options.batch_sizes
        return FusedRun(self.options.cell, walk, x, h, *initial, w=w, reserve=self._reserve[index], batch_sizes=sizes)

    def second(self, grads: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor | None]:
        """As gradient_tangent for gradients that do not move themselves; None where not wanted."""
        dy, dh_n, dc_n = self._cotangents(grads)
        walk = self.layers[0][0].walk
        by_y = walk.pairs(dy, torch.zeros_like(dy))
        states, wanted_weights = self.options.states, wanted[1 + self.options.states :]
        of_states: list[tuple[Tensor, ...]] = []
        of_weights: list[Tensor | None] = []
        for index, runs in reversed(list(enumerate(self.layers))):
            parts = by_y.chunk(len(runs), -1), self._by_run(dh_n, index), self._by_run(dc_n, index)
            by_run = []
            for run, mine, h_n, c_n in zip(runs, *parts, strict=True):
                by_run.append(
                    run.gradient(
                        mine.contiguous() if len(runs) > 1 else mine,
                        _with_zeros(h_n, run.h0),
                        _with_zeros(c_n, run.h0 if run.c0 is None else run.c0),
                    )
                )
            of_states.insert(0, tuple(torch.stack(each) for each in zip(*by_run, strict=True)))
            mine = self._of_layer(wanted_weights, index)
            of_layer: list[Tensor | None] = []
            for direction, run in enumerate(runs):
                flags = Weights.of(self._of_run(mine, direction), self.options.has_biases)
                of_layer += run.by_weights(flags).flat(run.w)
            of_weights = of_layer + of_weights
            if index > 0 or wanted[0]:
                by_y = runs[0].by_x()
                for run in runs[1:]:
                    by_y += run.by_x()
                by_y = self._drop_pairs(by_y, index)
        of_hx = [torch.cat(each) for each in zip(*of_states, strict=True)][:states]
        d_input = self._shaped(walk.halves(by_y)[1]) if wanted[0] else None
        of_hx = [g if w else None for g, w in zip(of_hx, wanted[1 : 1 + states], strict=True)]
        return [d_input, *of_hx, *of_weights]

    def _drop_pairs(self, pairs: Tensor, layer: int) -> Tensor:
        if self._mask is None or layer == 0:
            return pairs
        mask = self._flat(self._mask[layer - 1])
        return reference.drop(pairs, self.options.dropout, self.layers[0][0].walk.pairs(mask, mask))


def _with_zeros(values: Tensor | None, like: Tensor) -> Tensor:
    """[2, *like.shape]: the values, or zeros, and tangents of zero."""
    pair = like.new_zeros(2, *like.shape)
    if values is not None:
        pair[0] = values
    return pair
